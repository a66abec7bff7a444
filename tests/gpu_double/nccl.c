/* A double of NCCL between the processes of one host, over shared memory.
 *
 * A collective is work on a stream that is tried until it is done. It goes in chunks: every rank writes its part
 * of a chunk into its slot and says so; when all have, each takes what is its own and says that it has read.
 * Ranks that make different calls are told of each other's. Sends and receives use a slot for each pair. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "queue.h"

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
enum { MAX_RANKS = 16, SLOT = 1 << 18, PAIR_SLOT = 1 << 14, NAME = 128, PATIENCE_S = 60, POISON = 0xFF };
enum { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, SEND, RECEIVE };
enum { SUM, PRODUCT, MAXIMUM, MINIMUM, AVERAGE };
static const char *CALLS[] = {"AllReduce", "Reduce", "Broadcast", "AllGather", "ReduceScatter", "Send", "Recv"};
static const char *TYPES[] = {"int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
                              "bfloat16"};
static const char *OPERATORS[] = {"sum", "prod", "max", "min", "avg"};
static const size_t SIZES[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
enum { NUM_TYPES = 10, NUM_OPERATORS = 5, FLOAT16 = 6, FLOAT32, FLOAT64, BFLOAT16 };

typedef struct { char internal[NAME]; } UniqueId;
typedef struct { int call, type, operator, root; uint64_t count, number; } Call;
typedef struct { atomic_ulong posted, taken; size_t num_bytes; Call call; char data[PAIR_SLOT]; } Pair;
typedef struct {
    atomic_int joined, pid, device;
    atomic_ulong posted, taken; /* chunks since the beginning, of this rank */
    Call call;
    int color, key;
    char data[SLOT];
} Seat;
typedef struct { atomic_int num_joined; Seat seats[MAX_RANKS]; Pair pairs[MAX_RANKS][MAX_RANKS]; } Shared;
typedef struct {
    Shared *shared;
    char name[NAME];
    int size, rank, device, error, is_aborted;
    uint64_t num_called, num_run;  /* collectives */
    uint64_t num_chunks;           /* that this rank has been through */
    atomic_int num_pending;
} Comm;
typedef struct { Comm *comm; Call call; const char *in; char *out; uint64_t done; int has_posted, is_over; void *stream; } Work;

/* -- small things */

static __thread char last_error[512] = "";

static int fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    fprintf(stderr, "nccl double: %s\n", last_error);
    return status;
}

static void describe(char *text, size_t size, const Call *c) {
    int length = snprintf(text, size, "%s(%s[%llu]", CALLS[c->call], TYPES[c->type], (unsigned long long)c->count);
    if (c->call == ALL_REDUCE || c->call == REDUCE || c->call == REDUCE_SCATTER)
        length += snprintf(text + length, size - length, ", %s", OPERATORS[c->operator]);
    if (c->call == REDUCE || c->call == BROADCAST) length += snprintf(text + length, size - length, ", root %d", c->root);
    snprintf(text + length, size - length, ")");
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int is_gone(int pid) { /* ended, or a zombie that nobody has waited for yet */
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY);
    if (file < 0) return errno == ENOENT;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length < 0 ? 0 : length] = 0;
    const char *state = strrchr(text, ')');
    return state && (state[2] == 'Z' || state[2] == 'X');
}

/* -- reductions */

static float from_bfloat16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#define IDENTITY(x) (x)
/* A mean of floats is the sum of what each rank has multiplied; one of whole numbers is divided in the end. */
#define IS_WHOLE(x) ((__typeof__(x))0.5 == 0)
#define SHARE(x, n) (IS_WHOLE(x) ? (x) : (x) * ((__typeof__(x))1 / (__typeof__(x))(n)))
#define LEFT(x, n) (IS_WHOLE(x) ? (x) / (__typeof__(x))(n) : (x))
#define REDUCTION(name, T, Wide, read, write)                                                                        \
    static void name(Comm *c, int operator, size_t offset, void *out, size_t count) {                                \
        for (size_t i = 0; i < count; i++) {                                                                         \
            Wide total = read(((const T *)(c->shared->seats[0].data + offset))[i]);                                  \
            if (operator == AVERAGE) total = SHARE(total, c->size);                                                  \
            for (int q = 1; q < c->size; q++) {                                                                      \
                Wide other = read(((const T *)(c->shared->seats[q].data + offset))[i]);                              \
                if (operator == AVERAGE) other = SHARE(other, c->size);                                              \
                if (operator == SUM || operator == AVERAGE) total = total + other;                                   \
                else if (operator == PRODUCT) total = total * other;                                                 \
                else if (operator == MAXIMUM ? other > total || other != other : other < total || other != other)    \
                    total = other;                                                                                   \
            }                                                                                                        \
            if (operator == AVERAGE) total = LEFT(total, c->size);                                                   \
            ((T *)out)[i] = write(total);                                                                            \
        }                                                                                                            \
    }
REDUCTION(reduce_0, int8_t, int8_t, IDENTITY, IDENTITY)
REDUCTION(reduce_1, uint8_t, uint8_t, IDENTITY, IDENTITY)
REDUCTION(reduce_2, int32_t, int32_t, IDENTITY, IDENTITY)
REDUCTION(reduce_3, uint32_t, uint32_t, IDENTITY, IDENTITY)
REDUCTION(reduce_4, int64_t, int64_t, IDENTITY, IDENTITY)
REDUCTION(reduce_5, uint64_t, uint64_t, IDENTITY, IDENTITY)
REDUCTION(reduce_6, _Float16, float, IDENTITY, IDENTITY)
REDUCTION(reduce_7, float, float, IDENTITY, IDENTITY)
REDUCTION(reduce_8, double, double, IDENTITY, IDENTITY)
REDUCTION(reduce_9, uint16_t, float, from_bfloat16, to_bfloat16)
static void (*const REDUCE_BY_TYPE[])(Comm *, int, size_t, void *, size_t) = {
    reduce_0, reduce_1, reduce_2, reduce_3, reduce_4, reduce_5, reduce_6, reduce_7, reduce_8, reduce_9};

/* -- one collective, a chunk at a time */

static uint64_t chunk_elements(const Work *w) {
    uint64_t slots = w->call.call == REDUCE_SCATTER ? w->comm->size : 1;
    return SLOT / slots / SIZES[w->call.type];
}

static void give(const Work *w, uint64_t elements) {
    Comm *c = w->comm;
    Seat *me = &c->shared->seats[c->rank];
    size_t size = SIZES[w->call.type], num_bytes = elements * size;
    me->call = w->call;
    if (w->call.call == REDUCE_SCATTER)
        for (int q = 0; q < c->size; q++)
            memcpy(me->data + q * num_bytes, w->in + (q * w->call.count + w->done) * size, num_bytes);
    else if (w->call.call != BROADCAST || w->call.root == c->rank)
        memcpy(me->data, w->in + w->done * size, num_bytes);
}

static void take(const Work *w, uint64_t elements) {
    Comm *c = w->comm;
    size_t size = SIZES[w->call.type], num_bytes = elements * size;
    char *out = w->out + w->done * size;
    switch (w->call.call) {
    case REDUCE:
        if (c->rank != w->call.root) return; /* falls through */
    case ALL_REDUCE: REDUCE_BY_TYPE[w->call.type](c, w->call.operator, 0, out, elements); return;
    case REDUCE_SCATTER: REDUCE_BY_TYPE[w->call.type](c, w->call.operator, c->rank * num_bytes, out, elements); return;
    case BROADCAST: memcpy(out, c->shared->seats[w->call.root].data, num_bytes); return;
    case ALL_GATHER:
        for (int q = 0; q < c->size; q++) memcpy(out + q * w->call.count * size, c->shared->seats[q].data, num_bytes);
    }
}

/* The rank that calls something else in the place of this call; -1 if none does. */
static int find_mismatch(const Work *w) {
    for (int q = 0; q < w->comm->size; q++) {
        const Call *other = &w->comm->shared->seats[q].call;
        if (other->call != w->call.call || other->type != w->call.type || other->count != w->call.count ||
            other->operator != w->call.operator || other->root != w->call.root)
            return q;
    }
    return -1;
}

static int report_mismatch(Work *w, const Call *other, int rank) {
    char mine[128], theirs[128];
    describe(mine, sizeof mine, &w->call);
    describe(theirs, sizeof theirs, other);
    fail(0, "call %llu: rank %d makes %s, and rank %d makes %s; a GPU would hang or compute garbage",
         (unsigned long long)w->call.number, w->comm->rank, mine, rank, theirs);
    w->comm->error = INVALID_USAGE;
    return -1;
}

static int has_all(Comm *c, uint64_t chunks, int taken) {
    for (int q = 0; q < c->size; q++) {
        Seat *seat = &c->shared->seats[q];
        if (atomic_load(taken ? &seat->taken : &seat->posted) < chunks) return 0;
    }
    return 1;
}

static int try_collective(Work *w) {
    Comm *c = w->comm;
    Seat *me = &c->shared->seats[c->rank];
    if (c->num_run != w->call.number) return 0;
    for (;;) {
        uint64_t left = w->call.count - w->done, elements = chunk_elements(w);
        if (elements > left) elements = left;
        if (!w->has_posted) {
            if (!has_all(c, c->num_chunks, 1)) return 0;
            give(w, elements);
            atomic_store(&me->posted, c->num_chunks + 1);
            w->has_posted = 1;
        }
        if (!has_all(c, c->num_chunks + 1, 0)) return 0;
        int other = w->done == 0 ? find_mismatch(w) : -1;
        if (other >= 0) return report_mismatch(w, &c->shared->seats[other].call, other);
        take(w, elements);
        w->has_posted = 0;
        w->done += elements;
        atomic_store(&me->taken, ++c->num_chunks);
        if (w->done >= w->call.count) {
            c->num_run++;
            return 1;
        }
    }
}

/* -- sends and receives */

static int try_send(Work *w) {
    Pair *pair = &w->comm->shared->pairs[w->comm->rank][w->call.root];
    uint64_t size = SIZES[w->call.type], total = w->call.count * size;
    do {
        uint64_t posted = atomic_load(&pair->posted);
        if (atomic_load(&pair->taken) != posted) return 0;
        pair->num_bytes = total - w->done < PAIR_SLOT ? total - w->done : PAIR_SLOT;
        memcpy(pair->data, w->in + w->done, pair->num_bytes);
        pair->call = w->call;
        w->done += pair->num_bytes;
        atomic_store(&pair->posted, posted + 1);
    } while (w->done < total);
    return 1;
}

static int try_receive(Work *w) {
    Pair *pair = &w->comm->shared->pairs[w->call.root][w->comm->rank];
    uint64_t total = w->call.count * SIZES[w->call.type];
    do {
        uint64_t taken = atomic_load(&pair->taken);
        if (atomic_load(&pair->posted) == taken) return 0;
        if (w->done == 0 && (pair->call.count != w->call.count || pair->call.type != w->call.type))
            return report_mismatch(w, &pair->call, w->call.root);
        memcpy(w->out + w->done, pair->data, pair->num_bytes);
        w->done += pair->num_bytes;
        atomic_store(&pair->taken, taken + 1);
    } while (w->done < total);
    return 1;
}

/* -- groups: works of one stream that go on together */

typedef struct { int count; Work works[]; } Group;

static int try_work(Work *w) {
    Comm *c = w->comm;
    if (c->is_aborted) {
        size_t parts = w->call.call == ALL_GATHER ? c->size : 1;
        if (w->out) memset(w->out, POISON, parts * w->call.count * SIZES[w->call.type]);
        return 1;
    }
    return w->call.call == SEND ? try_send(w) : w->call.call == RECEIVE ? try_receive(w) : try_collective(w);
}

static int run_group(void *work) {
    Group *group = work;
    int all_over = 1;
    for (int i = 0; i < group->count; i++) {
        Work *w = &group->works[i];
        if (w->is_over) continue;
        int result = try_work(w);
        if (result) {
            w->is_over = 1;
            atomic_fetch_sub(&w->comm->num_pending, 1);
        }
        if (result < 0) return result;
        all_over &= w->is_over;
    }
    if (all_over) free(group);
    return all_over;
}

/* A group goes to its stream, now and not when it was captured: its collectives get their numbers. */
void double_begin(void *work) {
    Group *group = work;
    for (int i = 0; i < group->count; i++) {
        Work *w = &group->works[i];
        if (w->call.call != SEND && w->call.call != RECEIVE) w->call.number = w->comm->num_called++;
        atomic_fetch_add(&w->comm->num_pending, 1);
    }
}

static __thread int depth;
static __thread Work grouped[1024];
static __thread int num_grouped;

static void ranges_of(const Work *w, Range *ranges) {
    size_t num_bytes = w->call.count * SIZES[w->call.type];
    int n = w->comm->size, call = w->call.call;
    int reads = w->in && !(call == BROADCAST && w->comm->rank != w->call.root);
    int writes = w->out && !(call == REDUCE && w->comm->rank != w->call.root);
    ranges[0] = (Range){w->in, reads ? num_bytes * (call == REDUCE_SCATTER ? n : 1) : 0};
    ranges[1] = (Range){w->out, writes ? num_bytes * (call == ALL_GATHER ? n : 1) : 0};
    for (int i = 0; i < 2; i++)
        if (!ranges[i].num_bytes) ranges[i].start = NULL;
}

static int launch(void) { /* what has been gathered, one group a stream */
    int status = SUCCESS;
    while (num_grouped && status == SUCCESS) {
        void *stream = grouped[0].stream;
        size_t size = sizeof(Group) + num_grouped * sizeof(Work);
        Group *group = calloc(1, size);
        Range *ranges = calloc(2 * num_grouped, sizeof(Range));
        int rest = 0;
        char name[160] = "";
        describe(name, sizeof name, &grouped[0].call);
        for (int i = 0; i < num_grouped; i++) {
            if (grouped[i].stream == stream) {
                ranges_of(&grouped[i], ranges + 2 * group->count);
                group->works[group->count++] = grouped[i];
            } else
                grouped[rest++] = grouped[i];
        }
        num_grouped = rest;
        if (enqueue(stream, name, run_group, group, size, 2 * group->count, ranges)) status = INTERNAL_ERROR;
        free(ranges);
    }
    return status;
}

int ncclGroupStart(void) { depth++; return SUCCESS; }
int ncclGroupEnd(void) {
    if (depth <= 0) return fail(INVALID_USAGE, "ncclGroupEnd without ncclGroupStart");
    return --depth ? SUCCESS : launch();
}

static int call(Comm *c, int kind, const void *in, void *out, size_t count, int type, int operator, int root, void *stream) {
    if (!c) return fail(INVALID_ARGUMENT, "%s without a communicator", CALLS[kind]);
    if (c->is_aborted) return fail(INVALID_USAGE, "%s on a communicator that was aborted", CALLS[kind]);
    if (c->error) return c->error;
    if (type < 0 || type >= NUM_TYPES) return fail(INVALID_ARGUMENT, "%s of the unknown data type %d", CALLS[kind], type);
    if (operator < 0 || operator >= NUM_OPERATORS) return fail(INVALID_ARGUMENT, "%s by the unknown operator %d", CALLS[kind], operator);
    if (root < 0 || root >= c->size) return fail(INVALID_ARGUMENT, "%s with rank %d of %d", CALLS[kind], root, c->size);
    if (current_device() != c->device)
        return fail(INVALID_USAGE, "%s on device %d, but the communicator is of device %d", CALLS[kind], current_device(), c->device);
    if (num_grouped == sizeof grouped / sizeof *grouped) return fail(INTERNAL_ERROR, "over %d calls in a group", num_grouped);
    grouped[num_grouped++] = (Work){c, {kind, type, operator, root, count, 0}, in, out, 0, 0, 0, stream};
    return depth ? SUCCESS : launch();
}

int ncclAllReduce(const void *in, void *out, size_t n, int type, int op, Comm *c, void *stream) {
    return call(c, ALL_REDUCE, in, out, n, type, op, 0, stream);
}
int ncclReduce(const void *in, void *out, size_t n, int type, int op, int root, Comm *c, void *stream) {
    return call(c, REDUCE, in, out, n, type, op, root, stream);
}
int ncclBroadcast(const void *in, void *out, size_t n, int type, int root, Comm *c, void *stream) {
    return call(c, BROADCAST, in, out, n, type, 0, root, stream);
}
int ncclBcast(void *data, size_t n, int type, int root, Comm *c, void *stream) {
    return call(c, BROADCAST, data, data, n, type, 0, root, stream);
}
int ncclAllGather(const void *in, void *out, size_t n, int type, Comm *c, void *stream) {
    return call(c, ALL_GATHER, in, out, n, type, 0, 0, stream);
}
int ncclReduceScatter(const void *in, void *out, size_t n, int type, int op, Comm *c, void *stream) {
    return call(c, REDUCE_SCATTER, in, out, n, type, op, 0, stream);
}
int ncclSend(const void *in, size_t n, int type, int peer, Comm *c, void *stream) {
    return call(c, SEND, in, NULL, n, type, 0, peer, stream);
}
int ncclRecv(void *out, size_t n, int type, int peer, Comm *c, void *stream) {
    return call(c, RECEIVE, NULL, out, n, type, 0, peer, stream);
}

/* -- communicators */

static Shared *map(const char *name) {
    int file = shm_open(name, O_RDWR | O_CREAT, 0600);
    if (file < 0) return NULL;
    Shared *shared = ftruncate(file, sizeof(Shared)) ? MAP_FAILED
        : mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return shared == MAP_FAILED ? NULL : shared;
}

static int join(Comm **out, int size, const char *name, int rank) {
    Shared *shared = map(name);
    if (!shared) return fail(SYSTEM_ERROR, "no shared memory %s: %s", name, strerror(errno));
    Seat *me = &shared->seats[rank];
    if (atomic_exchange(&me->joined, 1)) return fail(INVALID_USAGE, "two processes say that they are rank %d", rank);
    atomic_store(&me->device, current_device());
    atomic_store(&me->pid, getpid());
    atomic_fetch_add(&shared->num_joined, 1);
    for (double start_s = now_s(); atomic_load(&shared->num_joined) < size; usleep(500))
        if (now_s() - start_s > PATIENCE_S) {
            shm_unlink(name);
            return fail(SYSTEM_ERROR, "rank %d waited %d s, and %d of %d ranks have come", rank, PATIENCE_S,
                        atomic_load(&shared->num_joined), size);
        }
    shm_unlink(name);
    for (int q = 0; q < size; q++)
        if (q != rank && atomic_load(&shared->seats[q].device) == atomic_load(&me->device))
            return fail(INVALID_USAGE, "ranks %d and %d both use device %d", rank, q, atomic_load(&me->device));
    Comm *c = *out = calloc(1, sizeof(Comm));
    *c = (Comm){.shared = shared, .size = size, .rank = rank, .device = current_device()};
    snprintf(c->name, NAME, "%s", name);
    return SUCCESS;
}

int ncclCommInitRankConfig(Comm **out, int size, UniqueId id, int rank, void *config) {
    if (size < 1 || size > MAX_RANKS || rank < 0 || rank >= size)
        return fail(INVALID_ARGUMENT, "rank %d of %d; the double carries 1 to %d ranks", rank, size, MAX_RANKS);
    if (strncmp(id.internal, "/distgrad-nccl-", 15)) return fail(INVALID_ARGUMENT, "the unique id was not made here");
    return join(out, size, id.internal, rank);
}
int ncclCommInitRank(Comm **out, int size, UniqueId id, int rank) {
    return ncclCommInitRankConfig(out, size, id, rank, NULL);
}

int ncclCommSplit(Comm *c, int color, int key, Comm **out, void *config) {
    if (c->is_aborted || c->error) return INVALID_USAGE;
    Seat *me = &c->shared->seats[c->rank];
    uint64_t chunk = c->num_chunks;
    c->num_called++;
    double start_s = now_s();
    for (; c->num_run + 1 != c->num_called || !has_all(c, chunk, 1); usleep(500), chunk = c->num_chunks)
        if (now_s() - start_s > PATIENCE_S) return fail(SYSTEM_ERROR, "CommSplit waits for collectives that do not run");
    me->color = color;
    me->key = key;
    atomic_store(&me->posted, chunk + 1);
    for (; !has_all(c, chunk + 1, 0); usleep(500))
        if (now_s() - start_s > PATIENCE_S) return fail(SYSTEM_ERROR, "CommSplit: not all ranks have come");
    int size = 0, rank = 0;
    for (int q = 0; q < c->size; q++) {
        Seat *other = &c->shared->seats[q];
        if (other->color != color) continue;
        size++;
        rank += other->key < key || (other->key == key && q < c->rank);
    }
    atomic_store(&me->taken, c->num_chunks = chunk + 1);
    uint64_t number = c->num_run++;
    *out = NULL;
    if (color < 0) return SUCCESS; /* NCCL_SPLIT_NOCOLOR */
    char name[2 * NAME];
    snprintf(name, sizeof name, "%s-%llu-%d", c->name, (unsigned long long)number, color);
    return join(out, size, name, rank);
}

int ncclGetUniqueId(UniqueId *id) {
    uint64_t random;
    memset(id, 0, sizeof *id);
    if (getrandom(&random, sizeof random, 0) != sizeof random) return SYSTEM_ERROR;
    snprintf(id->internal, NAME, "/distgrad-nccl-%d-%016llx", getpid(), (unsigned long long)random);
    return SUCCESS;
}
int ncclCommGetAsyncError(Comm *c, int *status) {
    for (int q = 0; !c->error && atomic_load(&c->num_pending) && q < c->size; q++)
        if (is_gone(atomic_load(&c->shared->seats[q].pid))) {
            fail(0, "rank %d is gone", q);
            c->error = REMOTE_ERROR;
        }
    *status = c->error;
    return SUCCESS;
}
int ncclCommAbort(Comm *c) { c->is_aborted = 1; return SUCCESS; } /* its memory stays: works may hold it */
int ncclCommFinalize(Comm *c) { return SUCCESS; }
int ncclCommDestroy(Comm *c) {
    if (atomic_load(&c->num_pending)) return SUCCESS;
    munmap(c->shared, sizeof(Shared));
    free(c);
    return SUCCESS;
}
int ncclCommCount(Comm *c, int *size) { *size = c->size; return SUCCESS; }
int ncclCommUserRank(Comm *c, int *rank) { *rank = c->rank; return SUCCESS; }
int ncclCommCuDevice(Comm *c, int *device) { *device = c->device; return SUCCESS; }
int ncclGetVersion(int *version) { *version = 22707; return SUCCESS; }
const char *ncclGetLastError(Comm *c) { return last_error; }
const char *ncclGetErrorString(int status) {
    static const char *TEXTS[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error",
                                  "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                  "NCCL operation in progress"};
    return status >= 0 && status < 8 ? TEXTS[status] : "unknown result code";
}
