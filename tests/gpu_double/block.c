// The engine that runs a kernel's blocks on the CPU, one after the other.
//
// A thread of a block is a fiber: it runs until it waits for its block or its warp, and goes on when all others
// that live have come there too. A kernel without barriers needs no fibers and runs as a loop. The order of
// blocks and of threads turns about, so that a missing barrier shows; shared memory is poisoned before each
// block.
#undef _FORTIFY_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { MAX_THREADS = 1024, WARP = 32, PAGE = 4096, STACK = 256 * 1024, SLOT = 32, SHARED = 232448, POISON = 0xFF };
enum { RUNNING, AT_BLOCK, AT_WARP, ENDED };
typedef struct { unsigned x, y, z; } Index;
typedef struct { jmp_buf at; int state; unsigned mask; Index index; char slot[SLOT]; int predicate; } Fiber;

Index gpu_thread_index, gpu_block_index, gpu_block_size, gpu_grid_size;
char gpu_dynamic_shared[SHARED] __attribute__((aligned(128)));

static Fiber fibers[MAX_THREADS];
static int num_fibers, num_made, current;
static jmp_buf scheduler;
static void (*kernel)(void **);
static void **arguments;

// -- fibers: made once, then each runs a thread of one block after the other

static void live(void) {
    for (;;) {
        if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
        kernel(arguments);
        fibers[current].state = ENDED;
    }
}

static void make_fibers(int count) {
    static char *stacks;
    static ucontext_t born;
    if (!stacks) {
        stacks = mmap(NULL, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) { perror("gpu double: stacks of fibers"); abort(); }
    }
    for (; num_made < count; num_made++) {
        char *stack = stacks + (size_t)num_made * STACK;
        mprotect(stack, PAGE, PROT_NONE);  // an overflow ends the process instead of changing a neighbour's values
        getcontext(&born);
        born.uc_stack.ss_sp = stack;
        born.uc_stack.ss_size = STACK;
        makecontext(&born, live, 0);
        current = num_made;
        if (!_setjmp(scheduler)) setcontext(&born);
    }
}

static void wait_as(int state) {
    fibers[current].state = state;
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}

static int is_in_warp_of(int a, int b) { return a / WARP == b / WARP; }

// -- what a kernel calls

void gpu_sync_block(void) { wait_as(AT_BLOCK); }

void gpu_sync_warp(unsigned mask) {
    fibers[current].mask = mask;
    wait_as(AT_WARP);
}

void gpu_exchange(unsigned mask, const void *value, size_t size) {
    if (size > SLOT) { fprintf(stderr, "gpu double: a shuffle of %zu bytes\n", size); abort(); }
    memcpy(fibers[current].slot, value, size);
    gpu_sync_warp(mask);
}

int gpu_received(int lane, void *value, size_t size) {
    int i = current / WARP * WARP + lane;
    if (lane < 0 || lane >= WARP || i >= num_fibers || fibers[i].state == ENDED) {
        memset(value, POISON, size);
        return 0;
    }
    memcpy(value, fibers[i].slot, size);
    return 1;
}

unsigned gpu_live_lanes(void) {
    unsigned mask = 0;
    for (int i = current / WARP * WARP; i < num_fibers && is_in_warp_of(i, current); i++)
        if (fibers[i].state != ENDED) mask |= 1u << i % WARP;
    return mask;
}

long gpu_count_block(int predicate, int all) {
    fibers[current].predicate = predicate != 0;
    wait_as(AT_BLOCK);
    long num_live = 0, count = 0;
    for (int i = 0; i < num_fibers; i++)
        if (fibers[i].state != ENDED) { num_live++; count += fibers[i].predicate; }
    wait_as(AT_BLOCK);
    return all ? count == num_live : count;
}

// -- running a block

static int release_block(int num_live) {
    int count = 0;
    for (int i = 0; i < num_fibers; i++) count += fibers[i].state == AT_BLOCK;
    if (count != num_live) return 0;
    for (int i = 0; i < num_fibers; i++)
        if (fibers[i].state == AT_BLOCK) fibers[i].state = RUNNING;
    return 1;
}

static int release_warps(void) {
    int released = 0;
    for (int i = 0; i < num_fibers; i++) {
        if (fibers[i].state != AT_WARP) continue;
        int first = i / WARP * WARP, all_here = 1;
        unsigned mask = fibers[i].mask;
        for (int j = first; j < num_fibers && j < first + WARP; j++)
            if ((mask >> (j - first) & 1) && fibers[j].state != ENDED)
                all_here &= fibers[j].state == AT_WARP && fibers[j].mask == mask;
        if (!all_here) continue;
        for (int j = first; j < num_fibers && j < first + WARP; j++)
            if (fibers[j].state == AT_WARP && fibers[j].mask == mask) fibers[j].state = RUNNING;
        released = 1;
    }
    return released;
}

static const char *run_fibers(int turn) {
    for (int i = 0; i < num_fibers; i++) fibers[i].state = RUNNING;
    for (volatile int round = turn;; round++) {
        for (volatile int k = 0; k < num_fibers; k++) {
            int i = round % 2 ? num_fibers - 1 - k : k;
            if (fibers[i].state != RUNNING) continue;
            current = i;
            gpu_thread_index = fibers[i].index;
            if (!_setjmp(scheduler)) _longjmp(fibers[i].at, 1);
        }
        int num_live = 0;
        for (int i = 0; i < num_fibers; i++) num_live += fibers[i].state != ENDED;
        if (!num_live) return NULL;
        if (release_warps() || release_block(num_live)) continue;
        return "some threads wait at a barrier that others of their block or warp never reach";
    }
}

static void run_loop(int count) {
    for (int i = 0; i < count; i++) {
        gpu_thread_index = fibers[i].index;
        kernel(arguments);
    }
}

// Run a kernel; return what is wrong with it, or NULL.
const char *gpu_run(void (*k)(void **), void **args, const unsigned *grid, const unsigned *block, size_t dynamic,
                    char *shared, size_t shared_size, int has_barriers) {
    int count = block[0] * block[1] * block[2];
    kernel = k;
    arguments = args;
    memcpy(&gpu_grid_size, grid, sizeof(Index));
    memcpy(&gpu_block_size, block, sizeof(Index));
    if (has_barriers) make_fibers(count);
    num_fibers = count;
    for (int i = 0; i < count; i++)
        fibers[i].index = (Index){i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
    size_t num_blocks = (size_t)grid[0] * grid[1] * grid[2];
    for (size_t n = 0; n < num_blocks; n++) {
        size_t b = num_blocks - 1 - n;
        gpu_block_index = (Index){b % grid[0], b / grid[0] % grid[1], b / ((size_t)grid[0] * grid[1])};
        if (shared_size) memset(shared, POISON, shared_size);
        if (dynamic) memset(gpu_dynamic_shared, POISON, dynamic);
        if (!has_barriers) { run_loop(count); continue; }
        const char *wrong = run_fibers(b % 2);
        if (wrong) {
            num_made = 0;  // fibers that never ended are left where they are
            return wrong;
        }
    }
    return NULL;
}
