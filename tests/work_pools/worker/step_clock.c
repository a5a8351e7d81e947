/* Lets a Python under libfaketime sleep: with FAKETIME_DONT_FAKE_MONOTONIC, libfaketime 0.9.10 takes the absolute
   time of clock_nanosleep(CLOCK_MONOTONIC) for one of the wall clock, and fails with EINVAL. Preload it first. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) == -1 ? errno : 0;
}
