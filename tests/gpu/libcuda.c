/* A driver that has no device, for planning by cuDNN, which looks for one's functions and asks little of them.
 *
 * What loads code or asks how much of it fits succeeds and does nothing; everything else is refused.
 */
#define REFUSES(name) int name(void) { return 100; } /* CUDA_ERROR_NO_DEVICE */
#define SUCCEEDS(name) int name(void) { return 0; }
#define GIVES_POINTER(name) int name(void **out) { *out = place; return 0; }
#define GIVES_NUMBER(name, number) int name(int *out) { *out = number; return 0; }

static char place[256]; /* what handles point to */

REFUSES(cuCtxGetCurrent)
REFUSES(cuCtxGetDevice)
REFUSES(cuCtxGetLimit)
REFUSES(cuCtxPopCurrent)
REFUSES(cuCtxPushCurrent)
REFUSES(cuCtxSetCurrent)
REFUSES(cuDeviceGet)
REFUSES(cuDeviceGetAttribute)
REFUSES(cuDeviceGetCount)
REFUSES(cuDeviceGetName)
REFUSES(cuDevicePrimaryCtxRetain)
REFUSES(cuGetErrorName)
REFUSES(cuGetErrorString)
REFUSES(cuInit)
REFUSES(cuKernelGetLibrary)
REFUSES(cuLaunchCooperativeKernel)
REFUSES(cuLaunchKernel)
REFUSES(cuLaunchKernelEx)
REFUSES(cuLibraryGetGlobal)
REFUSES(cuLinkAddData)
REFUSES(cuLinkComplete)
REFUSES(cuLinkCreate)
REFUSES(cuLinkDestroy)
REFUSES(cuMemsetD32Async)
REFUSES(cuModuleGetGlobal_v2)
REFUSES(cuStreamGetCtx)
REFUSES(cuStreamIsCapturing)
REFUSES(cuTensorMapEncodeIm2col)
REFUSES(cuTensorMapEncodeTiled)
REFUSES(cuThreadExchangeStreamCaptureMode)

SUCCEEDS(cuFuncSetAttribute)
SUCCEEDS(cuKernelSetAttribute)
SUCCEEDS(cuLibraryUnload)
SUCCEEDS(cuModuleUnload)

GIVES_POINTER(cuKernelGetFunction)
GIVES_POINTER(cuLibraryGetKernel)
GIVES_POINTER(cuLibraryLoadData)
GIVES_POINTER(cuLibraryLoadFromFile)
GIVES_POINTER(cuModuleGetFunction)
GIVES_POINTER(cuModuleLoadData)

GIVES_NUMBER(cuDriverGetVersion, 13000)
GIVES_NUMBER(cuFuncGetAttribute, 0)
GIVES_NUMBER(cuKernelGetAttribute, 0)
GIVES_NUMBER(cuOccupancyMaxActiveBlocksPerMultiprocessor, 1)
GIVES_NUMBER(cuOccupancyMaxActiveClusters, 66)
GIVES_NUMBER(cuOccupancyMaxPotentialClusterSize, 16)

int cuGetProcAddress(const char *name, void **function) { *function = 0; return 100; }
int cuGetProcAddress_v2(const char *name, void **function) { *function = 0; return 100; }
