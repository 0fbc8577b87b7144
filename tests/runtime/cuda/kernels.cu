// Kernels whose results are known, some of them wrong on purpose.

#ifndef QO_EMULATION
template <typename T>
struct Type {
  using type = T;
};
#define QO_SHARED(type_, name) __shared__ typename Type<type_>::type name
#endif

template <bool kBarrier>
__device__ void reverse_block(const int* from, int* to) {
  QO_SHARED(int[256], held);
  const unsigned begin = blockIdx.x * blockDim.x;
  held[threadIdx.x] = from[begin + threadIdx.x];
  if (kBarrier) __syncthreads();
  to[begin + threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void reverse(const int* from, int* to) { reverse_block<true>(from, to); }

extern "C" __global__ void reverse_without_barrier(const int* from, int* to) { reverse_block<false>(from, to); }

// [7 x 32]: what each warp operation gives each lane for these values.
extern "C" __global__ void warp_operations(const int* values, int* out) {
  const int lane = int(threadIdx.x);
  const int value = values[lane];
  out[lane] = int(__ballot_sync(0xffffffffu, value > 3));
  out[32 + lane] = __any_sync(0xffffffffu, value > 7);
  out[64 + lane] = int(__match_any_sync(0xffffffffu, value));
  out[96 + lane] = __shfl_sync(0xffffffffu, value, (lane + 5) % 32);
  out[128 + lane] = __shfl_up_sync(0xffffffffu, value, 3u);
  int low = -1;
  if (lane < 16) low = int(__ballot_sync(0xffffu, value % 2));
  out[160 + lane] = low;
  out[192 + lane] = __popc(unsigned(value)) + 100 * __popcll(~0ull << value) + 10000 * __ffs(value);
}

extern "C" __global__ void histogram(const unsigned* values, unsigned count, unsigned* bins, int* least) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) {
    atomicAdd(&bins[values[i]], 1u);
    atomicMin(least, int(values[i]));
  }
}

// Add without an atomic: right only if no other thread comes between.
extern "C" __global__ void unsafe_sum(int* sum) {
  const int old = *sum;
  __syncwarp();
  *sum = old + 1;
}

extern "C" __global__ void where(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

extern "C" __global__ void divergent_barrier(int* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = 1;
}

extern "C" __global__ void two_barriers(int* out) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

extern "C" __global__ void missing_lane(int* out) {
  if (threadIdx.x != 7) out[threadIdx.x] = __any_sync(0xffffffffu, 1);
}

extern "C" __global__ void outside_its_mask(int* out) { out[threadIdx.x] = __any_sync(0xfffffffeu, 1); }

extern "C" __global__ void uninitialised(unsigned* out) {
  QO_SHARED(unsigned[64], held);
  out[threadIdx.x] = held[threadIdx.x];
}
