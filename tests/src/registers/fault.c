/* Stands between a program and its disk and wall clock (LD_PRELOAD) and does what the file named by $BOREALIS_FAULT
   says at that moment: `delay MS`: each sync takes so much longer; `fail`: syncs fail with EIO; `full`: writes at an offset fail
   with ENOSPC; `tear`: the next write of a log segment gets half of its bytes to the file and the process dies;
   `clock S`: the wall clock is S seconds off, the monotonic ones are not. Anything else, or no file: nothing. Each
   time it did something it appends a letter to $BOREALIS_FAULT.fired. (libfaketime hangs at the start of a program
   whose allocator is jemalloc.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int told(const char *word, long *number) {
  const char *path = getenv("BOREALIS_FAULT");
  char text[64] = "", first[32] = "";
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return 0;
  ssize_t got = read(file, text, sizeof text - 1);
  close(file);
  *number = 0;
  return got > 0 && sscanf(text, "%31s %ld", first, number) >= 1 && strcmp(first, word) == 0;
}

static void fired(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s.fired", getenv("BOREALIS_FAULT"));
  int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return;
  if (write(file, "x", 1) < 0) { /* then it counts as not fired */ }
  close(file);
}

static int sync_by(const char *name, int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  long number;
  if (told("fail", &number)) {
    fired();
    errno = EIO;
    return -1;
  }
  if (told("delay", &number)) {
    struct timespec pause = {number / 1000, number % 1000 * 1000000};
    fired();
    nanosleep(&pause, NULL);
  }
  return real(file);
}

int fsync(int file) { return sync_by("fsync", file); }
int fdatasync(int file) { return sync_by("fdatasync", file); }

static int is_segment(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  return length > 4 && memcmp(path + length - 4, ".seg", 4) == 0;
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
  ssize_t (*real)(int, const void *, size_t, off64_t) =
      (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
  long number;
  if (told("full", &number)) {
    fired();
    errno = ENOSPC;
    return -1;
  }
  if (count >= 64 && told("tear", &number) && is_segment(file)) {
    fired();
    real(file, bytes, count / 2, at);
    kill(getpid(), SIGKILL);
  }
  return real(file, bytes, count, at);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return pwrite64(file, bytes, count, at); }

/* By the kernel, not by dlsym: the allocator asks for the time before it can allocate. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  long result = syscall(SYS_clock_gettime, clock, now), seconds;
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && told("clock", &seconds)) {
    fired();
    now->tv_sec += seconds;
  }
  return (int)result;
}
