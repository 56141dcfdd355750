/* Preloaded: the time of day is off by CLOCK_OFF_S seconds; what only runs on is not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t which, struct timespec *out) {
  static int (*real)(clockid_t, struct timespec *);
  const char *off = getenv("CLOCK_OFF_S");
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(which, out);
  if (!failed && which == CLOCK_REALTIME && off) out->tv_sec += atol(off);
  return failed;
}
