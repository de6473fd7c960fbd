/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: a histogram of delays that costs an increment a packet. Values below 2^SUB_BITS
 * have a cell each; above, every doubling has 2^(SUB_BITS - 1) cells, so a cell is never wider than
 * 1/64 of its value (the layout of HdrHistogram, which is where the figures go next).
 */
#ifndef MILLRACE_PKTGEN_HISTOGRAM_H
#define MILLRACE_PKTGEN_HISTOGRAM_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

#define SUB_BITS 7
#define HALF (1 << (SUB_BITS - 1))
#define CELLS ((64 - SUB_BITS + 2) * HALF)

struct histogram {
	uint64_t cells[CELLS];
	uint64_t count;
	uint64_t max;
};

static inline unsigned int cell_of(uint64_t value)
{
	unsigned int shift;

	if (value < 2 * HALF)
		return value;
	shift = 64 - __builtin_clzll(value) - SUB_BITS;
	return (shift + 1) * HALF + (value >> shift) - HALF;
}

/* The greatest value of a cell. */
static inline uint64_t end_of(unsigned int cell)
{
	unsigned int shift;

	if (cell < 2 * HALF)
		return cell;
	shift = cell / HALF - 1;
	return (((uint64_t)(cell % HALF + HALF) + 1) << shift) - 1;
}

static inline void record(struct histogram *h, uint64_t value)
{
	h->cells[cell_of(value)]++;
	h->count++;
	if (value > h->max)
		h->max = value;
}

/* [[end in ns, count], ...] of the cells that have any; `ns` is nanoseconds a tick. */
static inline void print_histogram(FILE *out, const struct histogram *h, double ns)
{
	const char *comma = "";

	fputc('[', out);
	for (unsigned int cell = 0; cell < CELLS; cell++) {
		if (!h->cells[cell])
			continue;
		fprintf(out, "%s[%.0f, %" PRIu64 "]", comma, end_of(cell) * ns, h->cells[cell]);
		comma = ", ";
	}
	fputc(']', out);
}

#endif
