#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

/// Warp-wide tensor-core and copy instructions of compute capability 8.0, one function each (PTX ISA 8.x,
/// sections mma.sync, ldmatrix, cp.async). Fragment layouts as stated there for m16n8k16: of an accumulator,
/// a thread holds rows lane / 4 and lane / 4 + 8, columns 2 (lane % 4) and the next.
namespace asplash::kernels::portable {

struct Fragment {
  uint32_t x[4];
};

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes to shared memory, or writes 16 zero bytes where !valid (the source is then not read).
__device__ inline void copy_async(uint32_t destination, const void* source, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(bytes)
               : "memory");
}
__device__ inline void copy_async(uint32_t destination, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(destination), "l"(source) : "memory");
}
__device__ inline void copy_async_word(uint32_t destination, const void* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(destination), "l"(source) : "memory");
}
__device__ inline void store_word(uint32_t destination, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(destination), "r"(word) : "memory");
}
__device__ inline void add_to_word(uint32_t destination, uint32_t word) {
  asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(destination), "r"(word) : "memory");
}
__device__ inline void store_four(uint32_t destination, const float (&x)[4]) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(destination), "f"(x[0]), "f"(x[1]), "f"(x[2]),
               "f"(x[3])
               : "memory");
}
__device__ inline uint32_t load_word(uint32_t source) {
  uint32_t x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(source) : "memory");
  return x;
}
__device__ inline float load_float(uint32_t source) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(source) : "memory");
  return x;
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `pending` of this thread's newest groups are under way.
template <int pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// Four 8 x 8 matrices of 16-bit numbers; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline Fragment load_matrix(uint32_t address) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
               : "r"(address)
               : "memory");
  return f;
}
__device__ inline Fragment load_matrix_transposed(uint32_t address) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
               : "r"(address)
               : "memory");
  return f;
}

template <typename T>
struct Element;

template <>
struct Element<__nv_bfloat16> {
  /// 1 for each number above 0, else 0.
  static __device__ uint32_t positive(uint32_t pair) {
    const __nv_bfloat162 ones =
        __hgt2(*reinterpret_cast<const __nv_bfloat162*>(&pair), __floats2bfloat162_rn(0, 0));
    return *reinterpret_cast<const uint32_t*>(&ones);
  }
  static __device__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float2 unpack(uint32_t pair) {
    // An instruction each: they are the upper halves of floats. (__bfloat1622float2 takes three for the two.)
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
  }
  /// d += a b, a [16 x 16] row-major, b [16 x 8] column-major, d [16 x 8].
  static __device__ void multiply_add(float (&d)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
  }
};

template <>
struct Element<__half> {
  static __device__ uint32_t positive(uint32_t pair) {
    const __half2 ones = __hgt2(*reinterpret_cast<const __half2*>(&pair), __floats2half2_rn(0, 0));
    return *reinterpret_cast<const uint32_t*>(&ones);
  }
  static __device__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float2 unpack(uint32_t pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  }
  static __device__ void multiply_add(float (&d)[4], const Fragment& a, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
  }
};

}  // namespace asplash::kernels::portable
