# SPDX-License-Identifier: Apache-2.0
# The demonstration's targets, included by the Makefile.

.PHONY: demo
demo: setup ## a real node in namespaces, traffic over every path, a table of what served it (root)
	$(PYTHON) tests/labs/demo.py up

.PHONY: undo
undo: ## put back everything that `make demo` changed (root)
	$(PYTHON) tests/labs/demo.py down
