/* mdload: metadata operations on a directory, from T threads, each in its own subdirectory or all in one.
 *
 *   mdload DIR THREADS FILES PHASE[,PHASE...]
 *
 * Prints one JSON line a phase: operations, seconds, ops/s, p50 and p99 in microseconds, errors and the first errno, and the
 * CPU seconds this program used (to be subtracted from whatever else is measured). A phase starts on all threads at once.
 * A phase whose name ends in _cold drops the kernel's caches of names and inodes first (needs root). The order of phases
 * is the caller's; each expects what earlier ones left:
 *
 *   mkdir rmdir                     d<k>       directories
 *   create stat_cold ls_cold rename f<k>       empty files; rename leaves r<k>
 *   unlink                          r<k>
 *   write4k read4k_cold unlink4k    w<k>       files of 4 KiB
 *   shared_create shared_unlink     s<t>.<k>   empty files in one directory for all threads
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, BLOCK = 4096 };

struct worker {
    int id;
    char own[PATH_BYTES / 2];
    int *order;      /* 0..files-1 shuffled, the same in every run */
    uint64_t *times; /* nanoseconds, one an operation */
    size_t done, room;
    int errors, first_errno;
    pthread_t thread;
};

typedef void phase_fn(struct worker *);

static const char *top;
static int threads, files;
static char block[BLOCK];
static phase_fn *current;
static pthread_barrier_t start_line, finish_line;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(struct worker *w, uint64_t began, int failed) {
    uint64_t took = now_ns() - began;
    if (failed) {
        if (!w->errors++) w->first_errno = errno;
    }
    if (w->done == w->room) {
        w->room = w->room ? 2 * w->room : 1024;
        w->times = realloc(w->times, w->room * sizeof *w->times);
        if (!w->times) abort();
    }
    w->times[w->done++] = took;
}

static void own_path(char *out, const struct worker *w, char kind, int k) {
    snprintf(out, PATH_BYTES, "%s/%c%06d", w->own, kind, k);
}

static void shared_path(char *out, const struct worker *w, int k) {
    snprintf(out, PATH_BYTES, "%s/shared/s%d.%06d", top, w->id, k);
}

static int make_file(const char *path, size_t bytes) {
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (fd < 0) return 1;
    int bad = bytes && write(fd, block, bytes) != (ssize_t)bytes;
    return close(fd) || bad;
}

static int read_file(const char *path) {
    char into[BLOCK];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 1;
    int bad = read(fd, into, BLOCK) != BLOCK;
    return close(fd) || bad;
}

#define EACH(index, kind, call)                                \
    do {                                                       \
        char p[PATH_BYTES];                                    \
        for (int k = 0; k < files; k++) {                      \
            own_path(p, w, kind, index);                       \
            uint64_t began = now_ns();                         \
            int failed = (call) != 0;                          \
            note(w, began, failed);                            \
        }                                                      \
    } while (0)

static void p_mkdir(struct worker *w) { EACH(k, 'd', mkdir(p, 0755)); }
static void p_rmdir(struct worker *w) { EACH(k, 'd', rmdir(p)); }
static void p_create(struct worker *w) { EACH(k, 'f', make_file(p, 0)); }
static void p_stat(struct worker *w) { struct stat st; EACH(w->order[k], 'f', lstat(p, &st)); }
static void p_unlink(struct worker *w) { EACH(k, 'r', unlink(p)); }
static void p_write4k(struct worker *w) { EACH(k, 'w', make_file(p, BLOCK)); }
static void p_read4k(struct worker *w) { EACH(w->order[k], 'w', read_file(p)); }
static void p_unlink4k(struct worker *w) { EACH(k, 'w', unlink(p)); }

static void p_rename(struct worker *w) {
    char from[PATH_BYTES], to[PATH_BYTES];
    for (int k = 0; k < files; k++) {
        own_path(from, w, 'f', k);
        own_path(to, w, 'r', k);
        uint64_t began = now_ns();
        note(w, began, rename(from, to));
    }
}

/* What `ls -l` does: list, and ask for the attributes of every entry. One operation is one entry. */
static void p_ls(struct worker *w) {
    struct dirent *entry;
    struct stat st;
    uint64_t began = now_ns();
    DIR *dir = opendir(w->own);
    if (!dir) { note(w, began, 1); return; }
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        note(w, began, fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW));
        began = now_ns();
    }
    closedir(dir);
}

static void p_shared_create(struct worker *w) {
    char p[PATH_BYTES];
    for (int k = 0; k < files; k++) {
        shared_path(p, w, k);
        uint64_t began = now_ns();
        note(w, began, make_file(p, 0));
    }
}

static void p_shared_unlink(struct worker *w) {
    char p[PATH_BYTES];
    for (int k = 0; k < files; k++) {
        shared_path(p, w, k);
        uint64_t began = now_ns();
        note(w, began, unlink(p));
    }
}

static const struct { const char *name; phase_fn *run; } phases[] = {
    {"mkdir", p_mkdir}, {"rmdir", p_rmdir}, {"create", p_create}, {"stat_cold", p_stat}, {"ls_cold", p_ls},
    {"rename", p_rename}, {"unlink", p_unlink}, {"write4k", p_write4k}, {"read4k_cold", p_read4k},
    {"unlink4k", p_unlink4k}, {"shared_create", p_shared_create}, {"shared_unlink", p_shared_unlink},
};

static void drop_caches(int data_too) {
    int dir = open(top, O_RDONLY);
    if (dir >= 0) { syncfs(dir); close(dir); }
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (fd < 0 || write(fd, data_too ? "3" : "2", 1) != 1) { perror("drop_caches"); exit(1); }
    close(fd);
}

static void *loop(void *argument) {
    struct worker *w = argument;
    for (;;) {
        pthread_barrier_wait(&start_line);
        if (!current) return NULL;
        current(w);
        pthread_barrier_wait(&finish_line);
    }
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double cpu_s(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + 1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void report(const char *name, struct worker *all, double seconds, double cpu) {
    size_t n = 0, filled = 0;
    int errors = 0, first_errno = 0;
    for (int t = 0; t < threads; t++) {
        n += all[t].done;
        errors += all[t].errors;
        if (!first_errno) first_errno = all[t].first_errno;
    }
    uint64_t *times = malloc((n ? n : 1) * sizeof *times);
    if (!times) abort();
    times[0] = 0;
    for (int t = 0; t < threads; t++) {
        memcpy(times + filled, all[t].times, all[t].done * sizeof *times);
        filled += all[t].done;
    }
    qsort(times, n, sizeof *times, ascending);
    printf("{\"phase\": \"%s\", \"threads\": %d, \"n\": %zu, \"seconds\": %.4f, \"ops_s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"errors\": %d, \"errno\": %d, \"own_cpu_s\": %.3f}\n",
           name, threads, n, seconds, (double)n / seconds, (double)times[n / 2] / 1e3,
           (double)times[n ? n * 99 / 100 : 0] / 1e3, errors, first_errno, cpu);
    fflush(stdout);
    free(times);
}

static void run_phase(const char *name, struct worker *all) {
    size_t length = strlen(name);
    current = NULL;
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++)
        if (!strcmp(phases[i].name, name)) current = phases[i].run;
    if (!current) { fprintf(stderr, "mdload: no phase %s\n", name); exit(2); }
    if (length > 5 && !strcmp(name + length - 5, "_cold")) drop_caches(!strcmp(name, "read4k_cold"));
    for (int t = 0; t < threads; t++) all[t].done = 0, all[t].errors = all[t].first_errno = 0;
    double cpu = cpu_s();
    uint64_t began = now_ns();
    pthread_barrier_wait(&start_line);
    pthread_barrier_wait(&finish_line);
    report(name, all, (double)(now_ns() - began) * 1e-9, cpu_s() - cpu);
}

static void prepare(struct worker *w, int id) {
    unsigned seed = (unsigned)id + 1;
    w->id = id;
    snprintf(w->own, sizeof w->own, "%s/t%d", top, id);
    if (mkdir(w->own, 0755) && errno != EEXIST) { perror(w->own); exit(1); }
    w->order = malloc((size_t)files * sizeof *w->order);
    if (!w->order) abort();
    for (int k = 0; k < files; k++) w->order[k] = k;
    for (int k = files - 1; k > 0; k--) {
        int j = rand_r(&seed) % (k + 1), kept = w->order[k];
        w->order[k] = w->order[j];
        w->order[j] = kept;
    }
    if (pthread_create(&w->thread, NULL, loop, w)) { perror("pthread_create"); exit(1); }
}

int main(int argc, char **argv) {
    char path[PATH_BYTES];
    if (argc != 5 || (threads = atoi(argv[2])) < 1 || (files = atoi(argv[3])) < 1) {
        fprintf(stderr, "usage: mdload DIR THREADS FILES PHASE[,PHASE...]\n");
        return 2;
    }
    top = argv[1];
    for (int i = 0; i < BLOCK; i++) block[i] = (char)(i * 31);
    if (mkdir(top, 0755) && errno != EEXIST) { perror(top); return 1; }
    snprintf(path, sizeof path, "%s/shared", top);
    mkdir(path, 0755);
    pthread_barrier_init(&start_line, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&finish_line, NULL, (unsigned)threads + 1);
    struct worker *all = calloc((size_t)threads, sizeof *all);
    if (!all) abort();
    for (int t = 0; t < threads; t++) prepare(&all[t], t);
    for (char *name = strtok(argv[4], ","); name; name = strtok(NULL, ",")) run_phase(name, all);
    current = NULL;
    pthread_barrier_wait(&start_line);
    for (int t = 0; t < threads; t++) pthread_join(all[t].thread, NULL);
    return 0;
}
