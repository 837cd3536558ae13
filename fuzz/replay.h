// replay.h - a main for a harness without a fuzzer (-DFUZZ_MAIN): runs the files or directories named, for gcc, valgrind,
// coverage. Without arguments it runs standard input.
#ifndef RCTX_FUZZ_REPLAY_H
#define RCTX_FUZZ_REPLAY_H

#include <stddef.h>
#include <stdint.h>

#ifdef FUZZ_MAIN

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REPLAY_BYTES_MAX = 1 << 20 };

static void replay_stream(FILE *file, const char *name) {
  uint8_t *bytes = malloc(REPLAY_BYTES_MAX);
  size_t size = fread(bytes, 1, REPLAY_BYTES_MAX, file);
  fprintf(stderr, "%s: %zu bytes\n", name, size);
  LLVMFuzzerTestOneInput(bytes, size);
  free(bytes);
}

static int replay_path(const char *path) {
  DIR *directory = opendir(path);
  if (directory) {
    int failed = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
      char name[4096];
      if (entry->d_name[0] == '.') continue;
      snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
      failed |= replay_path(name);
    }
    closedir(directory);
    return failed;
  }
  FILE *file = fopen(path, "rb");
  if (!file) {
    perror(path);
    return 1;
  }
  replay_stream(file, path);
  fclose(file);
  return 0;
}

int main(int argc, char **argv) {
  int failed = 0;
  for (int i = 1; i < argc; i++) failed |= replay_path(argv[i]);
  if (argc == 1) replay_stream(stdin, "standard input");
  return failed;
}

#endif
#endif
