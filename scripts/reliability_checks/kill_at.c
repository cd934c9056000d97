// Preloaded into a process (LD_PRELOAD), kills it at a chosen call that changes a file below a chosen folder.
//
// Nothing of the call is done, but for a write: half of its bytes are. Calls are numbered from kill_script() on; where
// numpy or the C library write through their own buffers, what is seen is the call that empties them.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char            folder[PATH_MAX]; // empty: nothing is counted
static uint64_t        n_calls, kill_at;

// Kills the process at call number `at`, from 0 on, in files whose path contains `part`.
void kill_script(const char * part, uint64_t at) {
    pthread_mutex_lock(&lock);
    snprintf(folder, sizeof(folder), "%s", part);
    n_calls = 0;
    kill_at = at;
    pthread_mutex_unlock(&lock);
}

uint64_t kill_calls(void) { return n_calls; }

static int counts(const char * path) {
    pthread_mutex_lock(&lock);
    const int is_it = folder[0] != '\0' && path != NULL && strstr(path, folder) != NULL && n_calls++ == kill_at;
    pthread_mutex_unlock(&lock);
    return is_it;
}

static int counts_fd(int fd) {
    char          link[64], path[PATH_MAX];
    const ssize_t n = (snprintf(link, sizeof(link), "/proc/self/fd/%d", fd), readlink(link, path, sizeof(path) - 1));
    path[n > 0 ? n : 0] = '\0';
    return counts(path);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    pause();
}

#define STOCK(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define DEFINE_WRITE(name, parameters, arguments)                                                                      \
    ssize_t name parameters {                                                                                          \
        const int dies = counts_fd(fd);                                                                                \
        n_bytes        = dies ? n_bytes / 2 : n_bytes;                                                                 \
        const ssize_t n = STOCK(name) arguments;                                                                       \
        if (dies) {                                                                                                    \
            die();                                                                                                     \
        }                                                                                                              \
        return n;                                                                                                      \
    }

DEFINE_WRITE(write, (int fd, const void * data, size_t n_bytes), (fd, data, n_bytes))
DEFINE_WRITE(pwrite, (int fd, const void * data, size_t n_bytes, off_t offset), (fd, data, n_bytes, offset))
DEFINE_WRITE(pwrite64, (int fd, const void * data, size_t n_bytes, off64_t offset), (fd, data, n_bytes, offset))

#define DEFINE_CALL(name, found, parameters, arguments)                                                                \
    int name parameters {                                                                                              \
        if (found) {                                                                                                   \
            die();                                                                                                     \
        }                                                                                                              \
        return STOCK(name) arguments;                                                                                  \
    }

DEFINE_CALL(fsync, counts_fd(fd), (int fd), (fd))
DEFINE_CALL(fdatasync, counts_fd(fd), (int fd), (fd))
DEFINE_CALL(ftruncate, counts_fd(fd), (int fd, off_t n), (fd, n))
DEFINE_CALL(ftruncate64, counts_fd(fd), (int fd, off64_t n), (fd, n))
DEFINE_CALL(posix_fallocate, counts_fd(fd), (int fd, off_t offset, off_t n), (fd, offset, n))
DEFINE_CALL(posix_fallocate64, counts_fd(fd), (int fd, off64_t offset, off64_t n), (fd, offset, n))
DEFINE_CALL(rename, counts(to), (const char * from, const char * to), (from, to))
DEFINE_CALL(unlink, counts(path), (const char * path), (path))
DEFINE_CALL(link, counts(to), (const char * from, const char * to), (from, to))
DEFINE_CALL(symlink, counts(to), (const char * from, const char * to), (from, to))
DEFINE_CALL(chmod, counts(path), (const char * path, mode_t mode), (path, mode))
