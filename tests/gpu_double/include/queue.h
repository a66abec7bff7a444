/* How a double of a library hands work to the streams of the double's runtime. */
#pragma once
#include <stddef.h>

typedef int (*Step)(void *work); /* 1 finished, 0 to be called again, below 0 failed */
typedef struct { const void *start; size_t num_bytes; } Range; /* of device memory that the work touches */

/* Set by the runtime. enqueue() returns 0, or 1 if the stream does not take the work. A stream that is captured
 * keeps it, of so many bytes, and each launch of the graph runs a copy. */
static int (*enqueue)(void *stream, const char *name, Step step, void *work, size_t size, int num_ranges,
                      const Range *ranges);
static int (*current_device)(void);
void double_connect(void *enqueue_function, void *device_function) {
    enqueue = (int (*)(void *, const char *, Step, void *, size_t, int, const Range *))enqueue_function;
    current_device = (int (*)(void))device_function;
}
