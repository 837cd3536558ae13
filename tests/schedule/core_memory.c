/* core_memory.c - core/memory.c, and its static state put back to where it was: each schedule begins like the first. */
#include "core/memory.c"

void sim_core_reset(void);
void sim_core_reset(void) { thread_index = 0; }
