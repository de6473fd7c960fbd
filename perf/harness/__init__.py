"""The perf harness: scenarios as data, statistics, rate search, results, reports."""
