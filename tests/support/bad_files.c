/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into a server by tests/fault: what a process that loads a model does on opening its file is in the name.
 *
 * A process whose command line names ovms_mp.worker, or its probe, dies, ends, hangs or waits when it opens a file whose name has
 * one of the words below; every other process opens it as usual. So a real OpenVINO, in the real process, meets what a
 * defect of its compiler would do, and nothing in the server knows that it is tested.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int loads_models(void) {
    char line[4096];
    long file = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = read((int)file, line, sizeof line - 1);
    close((int)file);
    for (ssize_t i = 0; i < length; i++)
        if (line[i] == 0) line[i] = ' ';
    line[length > 0 ? length : 0] = 0;
    return strstr(line, "ovms_mp.worker") != NULL;
}

static const char *name_of(const char *path) {
    const char *name = path ? strrchr(path, '/') : NULL;
    return name && strstr(name, "_me.") && loads_models() ? name : "";
}

static void before(const char *path) {
    const char *name = name_of(path);
    if (strstr(name, "abort_me")) abort();
    if (strstr(name, "crash_me")) *(volatile int *)8 = 0;
    if (strstr(name, "exit_me")) _exit(0);
    if (strstr(name, "hang_me"))
        for (;;) pause();
}

static void after(const char *path) {
    if (strstr(name_of(path), "wait_me.bin")) sleep(3);
}

#define OPEN(function)                                                             \
    int function(const char *path, int flags, ...) {                               \
        va_list arguments;                                                         \
        va_start(arguments, flags);                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; \
        va_end(arguments);                                                         \
        before(path);                                                              \
        int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);          \
        after(path);                                                               \
        return file;                                                               \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(function)                                                            \
    FILE *function(const char *path, const char *mode) {                           \
        FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, #function);   \
        before(path);                                                              \
        FILE *file = real(path, mode);                                             \
        after(path);                                                               \
        return file;                                                               \
    }
FOPEN(fopen)
FOPEN(fopen64)
