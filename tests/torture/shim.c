/* Preloaded into every process of a trial: counts the calls that change files below a folder, and disturbs one of them.

   TORTURE_STATE names the file that the harness shares with it (faults.py has the same structure). A process counts if
   its role is the wanted one; the N-th call of all such processes is disturbed. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { NONE, KILL_BEFORE, KILL_WITHIN, KILL_AFTER, KILL_ALL, IO_ERROR, DISK_FULL, TERMINATE, INTERRUPT, CLOCK, DISK_FILLS };

struct state {
    long fault, at, count, fired, harness;
    char role[32], root[1024], what[2048];
};

static struct state *state;
static char role[32], name[1024];
static const long DAY = 86400;

static int says(const char *file, const char *text) { /* whether a file of /proc contains a text */
    static char content[1 << 18];
    int descriptor = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY, 0); /* openat, not ours */
    if (descriptor < 0) return 0;
    long size = 0, more;
    while (size < (long)sizeof content && (more = read(descriptor, content + size, sizeof content - size)) > 0) size += more;
    close(descriptor);
    return memmem(content, size, text, strlen(text)) != NULL;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TORTURE_STATE");
    if (!path) return;
    snprintf(name, sizeof name, "TORTURE_STATE=%s", path);
    int descriptor = syscall(SYS_openat, AT_FDCWD, path, O_RDWR, 0);
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED) return;
    state = mapped;
    const char *own = says("/proc/self/cmdline", "runner.execute.agent") ? "agent"
        : says("/proc/self/cmdline", "runner.execute") ? "executor"
        : says("/proc/self/cmdline", "--output") ? "stage"
        : says("/proc/self/cmdline", "def receive(") ? "receiver" : "other";
    strcpy(role, own);
}

void torture_role(const char *own) { snprintf(role, sizeof role, "%s", own); } /* of a process that did not exec */

static void kill_all(void) { /* as when the machine fails: every process of the trial */
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        long pid = atol(entry->d_name);
        char file[64];
        snprintf(file, sizeof file, "/proc/%ld/environ", pid);
        if (pid && pid != state->harness && pid != getpid() && says(file, name)) kill(pid, SIGKILL);
    }
    kill(getpid(), SIGKILL);
}

static int below_root(int folder, const char *path, char *full) {
    char link[64], base[1024] = "";
    if (!path || path[0] != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        long size = readlink(link, base, sizeof base - 1);
        base[size < 0 ? 0 : size] = 0;
    }
    snprintf(full, 2048, "%s%s%s", base, path && base[0] ? "/" : "", path ? path : "");
    size_t length = strlen(state->root);
    return length && !strncmp(full, state->root, length);
}

/* Returns the fault for this call, NONE for all but one. `grows`: whether it needs space on the disk. */
static int fault_of(const char *call, int folder, const char *path, int grows) {
    char full[2048];
    int saved = errno, fault = NONE;
    if (state && state->role[0] && !strcmp(role, state->role) && below_root(folder, path, full)) {
        long number = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
        if (number == state->at) {
            fault = state->fault == DISK_FULL ? DISK_FILLS : state->fault;
            snprintf(state->what, sizeof state->what, "%s %s", call, full + strlen(state->root));
            state->fired = 1;
        } else if (state->fault == DISK_FULL && state->fired && grows) {
            fault = DISK_FULL; /* it stays full */
        }
    }
    errno = saved;
    return fault;
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

#define DISTURBED(call, folder, path, grows, invoke) \
    do { \
        int fault = fault_of(call, folder, path, grows); \
        if (fault == KILL_BEFORE || fault == KILL_WITHIN) kill(getpid(), SIGKILL); \
        if (fault == KILL_ALL) kill_all(); \
        if (fault == TERMINATE) kill(getpid(), SIGTERM); \
        if (fault == INTERRUPT) kill(getpid(), SIGINT); \
        if (fault == IO_ERROR) return errno = EIO, -1; \
        if ((fault == DISK_FILLS || fault == DISK_FULL) && (grows)) return errno = ENOSPC, -1; \
        __typeof__(invoke) result = invoke; \
        if (fault == KILL_AFTER) kill(getpid(), SIGKILL); \
        return result; \
    } while (0)

#define OPEN(function, folder, declared, given) \
    int function declared { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (!(flags & (O_WRONLY | O_RDWR | O_CREAT))) return REAL(function) given; \
        DISTURBED("open", folder, path, flags & O_CREAT, REAL(function) given); \
    }
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPEN(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

/* The only call that a kill or a full disk can tear. */
#define WRITE(function, declared, half, given) \
    ssize_t function declared { \
        int fault = fault_of("write", descriptor, NULL, 1); \
        if (fault == KILL_WITHIN || fault == KILL_ALL || fault == DISK_FILLS) { \
            ssize_t part = REAL(function) half; \
            if (fault == DISK_FILLS && part > 0) return part; \
        } \
        if (fault == KILL_ALL) kill_all(); \
        if (fault == KILL_BEFORE || fault == KILL_WITHIN) kill(getpid(), SIGKILL); \
        if (fault == TERMINATE) kill(getpid(), SIGTERM); \
        if (fault == INTERRUPT) kill(getpid(), SIGINT); \
        if (fault == IO_ERROR) return errno = EIO, -1; \
        if (fault == DISK_FILLS || fault == DISK_FULL) return errno = ENOSPC, -1; \
        ssize_t result = REAL(function) given; \
        if (fault == KILL_AFTER) kill(getpid(), SIGKILL); \
        return result; \
    }
WRITE(write, (int descriptor, const void *data, size_t size), (descriptor, data, size / 2), (descriptor, data, size))
WRITE(pwrite, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size / 2, at), (descriptor, data, size, at))
WRITE(pwrite64, (int descriptor, const void *data, size_t size, off64_t at), (descriptor, data, size / 2, at), (descriptor, data, size, at))

ssize_t sendfile(int out, int in, off_t *at, size_t n) { DISTURBED("sendfile", out, NULL, 1, REAL(sendfile)(out, in, at, n)); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { DISTURBED("sendfile", out, NULL, 1, REAL(sendfile64)(out, in, at, n)); }
int rename(const char *from, const char *to) { DISTURBED("rename to", AT_FDCWD, to, 0, REAL(rename)(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { DISTURBED("rename to", b, to, 0, REAL(renameat)(a, from, b, to)); }
int unlink(const char *path) { DISTURBED("unlink", AT_FDCWD, path, 0, REAL(unlink)(path)); }
int unlinkat(int folder, const char *path, int flags) { DISTURBED("unlink", folder, path, 0, REAL(unlinkat)(folder, path, flags)); }
int rmdir(const char *path) { DISTURBED("rmdir", AT_FDCWD, path, 0, REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t mode) { DISTURBED("mkdir", AT_FDCWD, path, 1, REAL(mkdir)(path, mode)); }
int symlink(const char *to, const char *path) { DISTURBED("symlink", AT_FDCWD, path, 1, REAL(symlink)(to, path)); }
int fsync(int descriptor) { DISTURBED("fsync", descriptor, NULL, 0, REAL(fsync)(descriptor)); }
int ftruncate(int descriptor, off_t size) { DISTURBED("truncate", descriptor, NULL, 0, REAL(ftruncate)(descriptor, size)); }
int ftruncate64(int descriptor, off64_t size) { DISTURBED("truncate", descriptor, NULL, 0, REAL(ftruncate64)(descriptor, size)); }
int truncate(const char *path, off_t size) { DISTURBED("truncate", AT_FDCWD, path, 0, REAL(truncate)(path, size)); }
int truncate64(const char *path, off64_t size) { DISTURBED("truncate", AT_FDCWD, path, 0, REAL(truncate64)(path, size)); }
int fchmod(int descriptor, mode_t mode) { DISTURBED("chmod", descriptor, NULL, 0, REAL(fchmod)(descriptor, mode)); }
int chmod(const char *path, mode_t mode) { DISTURBED("chmod", AT_FDCWD, path, 0, REAL(chmod)(path, mode)); }

/* The clock of the day goes back a day at the N-th call, as when a machine's clock is set. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (state && state->fault == CLOCK && state->fired && clock == CLOCK_REALTIME) now->tv_sec -= DAY;
    return result;
}
