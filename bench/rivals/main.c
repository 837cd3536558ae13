/*
 * The program around a rival in C or C++: its cases, run by the same harness as ours. The protocol of all rivals:
 *
 *   --about                          prints name<TAB>version<TAB>what it is blind to
 *   --list                           prints the cases it can express, one a line
 *   --case NAME [--min-time S]       prints rival<TAB>case<TAB>ns<TAB>allocs<TAB>bytes, per operation, then, where the case
 *                                    has them, further figures as <TAB>name=value
 *
 * A case is opened and warmed up once per run of the program; its blocks then take S seconds (0.1) together.
 */
#include "cases.h"
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(const char *wrong) {
  if (wrong) {
    fprintf(stderr, "%s: %s\n", bench_program.name, wrong);
  }
  fputs("usage: --about | --list | --case NAME [--min-time SECONDS]\n", stderr);
  return 2;
}

static void about(void) {
  printf("%s\t%s\t%s\n", bench_program.name, bench_program.version(), bench_program.blind ? bench_program.blind : "");
}

static void list(void) {
  size_t count;
  const struct bench_case *cases = bench_cases(&count);
  for (size_t i = 0; i < count; i++) {
    puts(cases[i].name);
  }
}

static void add(struct bench_sample *sum, const struct bench_sample *block) {
  sum->ns += block->ns;
  sum->ops += block->ops;
  sum->allocs += block->allocs;
  sum->bytes += block->bytes;
  for (int i = 0; i < BENCH_EXTRAS; i++) {
    sum->extra[i] += block->extra[i];
  }
}

/* Batches until they took so long together. Those that take their own time, lateness or wakeups, once. */
static size_t run_batches(const struct bench_case *c, double min_ns, struct bench_sample *sum) {
  size_t blocks = 0;
  do {
    struct bench_sample block;
    bench_block(c->batch, &block);
    add(sum, &block);
    blocks++;
  } while (sum->ns < min_ns && !c->measure);
  return blocks;
}

/* One block of so many operations; how many that is, shorter blocks tell. */
static size_t run_block(double min_ns, struct bench_sample *sum) {
  for (size_t ops = 64;;) {
    bench_block(ops, sum);
    if (sum->ns >= min_ns || ops >= 1000000000) {
      return 1;
    }
    double wanted = sum->ns > min_ns / 100 ? 1.2 * min_ns / sum->ns : 10;
    ops = (size_t)((double)ops * (wanted > 1.1 ? wanted : 1.1)) + 8;
  }
}

static void run(const struct bench_case *c, double seconds) {
  struct bench_sample sum = {0};
  bench_start_idle_thread();
  bench_use(c);
  size_t blocks = c->batch ? run_batches(c, seconds * 1e9, &sum) : run_block(seconds * 1e9, &sum);
  double per_thread = (double)sum.ops, all = per_thread * (c->pair ? 2 : 1);
  printf("%s\t%s\t%.6g\t%.6g\t%.6g", bench_program.name, c->name, sum.ns / per_thread, (double)sum.allocs / all,
         (double)sum.bytes / all);
  for (int i = 0; i < BENCH_EXTRAS && c->extra[i]; i++) {
    printf("\t%s=%.6g", c->extra[i], sum.extra[i] / (double)blocks);
  }
  putchar('\n');
  bench_close();
}

int main(int argc, char **argv) {
  const char *name = NULL;
  double seconds = 0.1;
  if (argc == 2 && strcmp(argv[1], "--about") == 0) {
    about();
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    list();
    return 0;
  }
  if (argc == 4 && strcmp(argv[1], "--resident") == 0) { /* for itself: resident.c */
    bench_start_idle_thread();
    return bench_resident_main(argv[2], argv[3]);
  }
  for (int i = 1; i + 1 < argc; i += 2) {
    char *end = NULL;
    if (strcmp(argv[i], "--case") == 0) {
      name = argv[i + 1];
    } else if (strcmp(argv[i], "--min-time") == 0) {
      seconds = strtod(argv[i + 1], &end);
      if (end == argv[i + 1] || *end != '\0' || !(seconds > 0)) {
        return usage("--min-time wants seconds");
      }
    } else {
      return usage("unknown option");
    }
  }
  if (argc % 2 == 0 || name == NULL) {
    return usage("one case, please");
  }
  const struct bench_case *c = bench_find(name);
  if (c == NULL) {
    return usage("no such case; --list names them");
  }
  run(c, seconds);
  return 0;
}
