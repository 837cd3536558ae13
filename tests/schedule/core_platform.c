/* core_platform.c - core/platform.c but for what a fibre does in its own way. */
#define rctx__back_off rctx__back_off_of_threads
#define rctx__thread_self rctx__thread_self_of_threads
#include "core/platform.c"
#undef rctx__back_off
#undef rctx__thread_self

void rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries);
uintptr_t rctx__thread_self(void);

/* Spinning is of no use here: the holder has to go on. */
void rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries) {
  (void)word;
  (void)seen;
  (void)tries;
  sim_stuck(__func__, __LINE__);
}

uintptr_t rctx__thread_self(void) { return sim_self() + 1U; }
