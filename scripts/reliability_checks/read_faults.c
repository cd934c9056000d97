// Preloaded into a process (LD_PRELOAD), makes reads of chosen files fail as a drive may: errors, short reads, stalls.
//
// The process itself says what fails, through faults_script(). Reads are numbered in the order in which they begin,
// from the call of faults_script() on; one that the program repeats has a number of its own.
//
// HOBBIT_FAULTS_NO_DIRECT=1: opening with O_DIRECT fails, as on file systems without. HOBBIT_FAULTS_ALIGN=65536: what
// statx() says direct reads must be aligned to, and those that are not fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { FAIL, SHORTEN, STALL, CALL };

struct fault {
    uint64_t first, last; // numbers of the reads that it is about
    int32_t  kind;
    int32_t  value; // FAIL: errno; SHORTEN: bytes that are read, of 1000; STALL: milliseconds
};

enum { max_faults = 64, max_iovecs = 64 };

static pthread_mutex_t lock  = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t  ended = PTHREAD_COND_INITIALIZER;
static char            path_part[4096]; // of the files that the faults are about; empty: none
static struct fault    faults[max_faults];
static int             n_faults;
static uint64_t        n_reads, n_hit, n_misaligned;
static int             n_calling;
static void (*callback)(void);

// Replaces the script; returns when no callback of the one before runs any more.
void faults_script(const char * part, const struct fault * script, int n, void (*on_call)(void)) {
    pthread_mutex_lock(&lock);
    while (n_calling > 0) {
        pthread_cond_wait(&ended, &lock);
    }
    snprintf(path_part, sizeof(path_part), "%s", part);
    n_faults = n < max_faults ? n : max_faults;
    if (n_faults > 0) {
        memcpy(faults, script, (size_t)n_faults * sizeof(*script));
    }
    n_reads = n_hit = 0;
    callback        = on_call;
    pthread_mutex_unlock(&lock);
}

uint64_t faults_reads(void) { return n_reads; }
uint64_t faults_hit(void) { return n_hit; }
uint64_t faults_misaligned(void) { return n_misaligned; }

static int is_chosen(int fd) {
    char          link[64], path[4096];
    const ssize_t n = (snprintf(link, sizeof(link), "/proc/self/fd/%d", fd), readlink(link, path, sizeof(path) - 1));
    if (n < 0 || path_part[0] == '\0') {
        return 0;
    }
    path[n] = '\0';
    return strstr(path, path_part) != NULL;
}

// What happens to this read; -1: nothing.
static int take_fault(int fd, int * value) {
    int kind = -1;
    pthread_mutex_lock(&lock);
    if (is_chosen(fd)) {
        const uint64_t number = n_reads++;
        for (int i = 0; i < n_faults && kind < 0; i++) {
            if (faults[i].first <= number && number <= faults[i].last) {
                kind   = faults[i].kind;
                *value = faults[i].value;
                n_hit++;
            }
        }
        n_calling += kind == CALL;
    }
    pthread_mutex_unlock(&lock);
    return kind;
}

static void sleep_ms(int ms) {
    struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static uint64_t fault_alignment(void) {
    const char * text = getenv("HOBBIT_FAULTS_ALIGN");
    return text == NULL ? 1 : strtoull(text, NULL, 10);
}

static int is_misaligned(int fd, const struct iovec * iovecs, int n, off_t offset) {
    const uint64_t align = fault_alignment();
    if (align == 1 || (fcntl(fd, F_GETFL) & O_DIRECT) == 0) {
        return 0;
    }
    uint64_t bits = (uint64_t)offset;
    for (int i = 0; i < n; i++) {
        bits |= (uint64_t)(uintptr_t)iovecs[i].iov_base | iovecs[i].iov_len;
    }
    return bits % align != 0;
}

typedef ssize_t (*preadv_fn)(int, const struct iovec *, int, off_t);

static ssize_t read_with_faults(int fd, const struct iovec * iovecs, int n, off_t offset) {
    static preadv_fn stock;
    if (stock == NULL) {
        stock = (preadv_fn)dlsym(RTLD_NEXT, "preadv");
    }
    if (is_misaligned(fd, iovecs, n, offset)) {
        __atomic_fetch_add(&n_misaligned, 1, __ATOMIC_RELAXED);
        errno = EINVAL;
        return -1;
    }
    int value = 0;
    switch (take_fault(fd, &value)) {
    case FAIL:
        errno = value;
        return -1;
    case SHORTEN: {
        struct iovec part[max_iovecs];
        uint64_t     left = 0;
        for (int i = 0; i < n; i++) {
            left += iovecs[i].iov_len;
        }
        left = left * (uint64_t)value / 1000;
        left += left == 0; // a read of nothing would mean the end of the file
        int used = 0;
        for (; used < n && used < max_iovecs && left > 0; used++) {
            part[used] = iovecs[used];
            if (part[used].iov_len > left) {
                part[used].iov_len = left;
            }
            left -= part[used].iov_len;
        }
        const ssize_t got = stock(fd, part, used, offset);
        return got < 0 && errno == EINVAL ? stock(fd, iovecs, n, offset) : got; // direct reads end at a block
    }
    case STALL:
        sleep_ms(value);
        break;
    case CALL:
        callback();
        pthread_mutex_lock(&lock);
        n_calling--;
        pthread_cond_broadcast(&ended);
        pthread_mutex_unlock(&lock);
        break;
    default:
        break;
    }
    return stock(fd, iovecs, n, offset);
}

ssize_t preadv(int fd, const struct iovec * iovecs, int n, off_t offset) {
    return read_with_faults(fd, iovecs, n, offset);
}

ssize_t preadv64(int fd, const struct iovec * iovecs, int n, off64_t offset) {
    return read_with_faults(fd, iovecs, n, offset);
}

ssize_t pread(int fd, void * dst, size_t n_bytes, off_t offset) {
    const struct iovec iov = {dst, n_bytes};
    return read_with_faults(fd, &iov, 1, offset);
}

ssize_t pread64(int fd, void * dst, size_t n_bytes, off64_t offset) {
    const struct iovec iov = {dst, n_bytes};
    return read_with_faults(fd, &iov, 1, offset);
}

typedef int (*open_fn)(const char *, int, ...);

static int open_with_faults(const char * path, int flags, mode_t mode) {
    static open_fn stock;
    if (stock == NULL) {
        stock = (open_fn)dlsym(RTLD_NEXT, "open");
    }
    if ((flags & O_DIRECT) != 0 && getenv("HOBBIT_FAULTS_NO_DIRECT") != NULL) {
        errno = EINVAL;
        return -1;
    }
    return stock(path, flags, mode);
}

#define DEFINE_OPEN(name)                                                                                              \
    int name(const char * path, int flags, ...) {                                                                      \
        mode_t mode = 0;                                                                                               \
        if ((flags & (O_CREAT | O_TMPFILE)) != 0) {                                                                    \
            va_list arguments;                                                                                         \
            va_start(arguments, flags);                                                                                \
            mode = va_arg(arguments, mode_t);                                                                          \
            va_end(arguments);                                                                                         \
        }                                                                                                              \
        return open_with_faults(path, flags, mode);                                                                    \
    }

DEFINE_OPEN(open)
DEFINE_OPEN(open64)

typedef int (*statx_fn)(int, const char *, int, unsigned, struct statx *);

int statx(int folder, const char * path, int flags, unsigned mask, struct statx * info) {
    static statx_fn stock;
    if (stock == NULL) {
        stock = (statx_fn)dlsym(RTLD_NEXT, "statx");
    }
    const int rc = stock(folder, path, flags, mask, info);
#ifdef STATX_DIOALIGN
    if (rc == 0 && (mask & STATX_DIOALIGN) != 0 && fault_alignment() > 1) {
        info->stx_mask |= STATX_DIOALIGN;
        info->stx_dio_mem_align = info->stx_dio_offset_align = (uint32_t)fault_alignment();
    }
#endif
    return rc;
}
