/* Preloaded into a database server: a disk whose sync takes SLOW_SYNC_US longer, as many that are reached over a network do.
 *
 * The sync is done first, so that nothing is lost that would not be lost without this; then whoever asked for it waits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int delayed(const char *name, int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *told = getenv("SLOW_SYNC_US");
    long us = told ? atol(told) : 0;
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    int result = sync(fd), error = errno;
    while (nanosleep(&left, &left) && errno == EINTR) {}
    errno = error;
    return result;
}

int fdatasync(int fd) { return delayed("fdatasync", fd); }
int fsync(int fd) { return delayed("fsync", fd); }
