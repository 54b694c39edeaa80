// TAESD's decoder, compiled at run time without any headers.
//
// Between the kernels, a picture is stored as [height][width][64 channels] of half. A convolution
// is a matrix product on the tensor cores: 16 pixels in a row by 64 channels, for one tap of the
// 3x3 window at a time, accumulated in float. fused.py explains how the host prepares the weights.

typedef unsigned short half;  // its bits: arithmetic is done in float
typedef unsigned int uint;
typedef unsigned char byte;

#define CHANNELS 64
#define TAPS 9
#define ACROSS 16                 // a tile's width: the pixels of one matrix product
#define HALO (ACROSS + 2)         // including the neighbours that a 3x3 window needs
#define PITCH (CHANNELS * 2 + 16) // bytes from pixel to pixel, so that 8 of them use all 32 banks

struct alignas(16) Eight { uint pair[4]; };  // halves, moved by a single access

extern __shared__ Eight shared[];

__device__ __forceinline__ float to_float(half bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ half to_half(float value) {
    half bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ uint to_pair(float low, float high) {
    return to_half(low) | (uint)to_half(high) << 16;
}

__device__ __forceinline__ uint in_shared(const void *pointer) {
    return (uint)__cvta_generic_to_shared(pointer);
}

// Copies 16 bytes, or zeros, to shared memory, where they are after `arrived` and a barrier.
__device__ __forceinline__ void copy16(uint to, const void *from, bool zeros) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(__cvta_generic_to_global(from)), "r"(zeros ? 0 : 16) : "memory");
#else
    uint4 value = make_uint4(0, 0, 0, 0);
    if (!zeros) value = *(const uint4 *)from;
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
                 :: "r"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
#endif
}

__device__ __forceinline__ void arrived() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Loads four 8x8 matrices of halves; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint (&to)[4], uint from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

// sum[16 pixels x 8 outputs] += pixels[16 x 16 channels] * weights[16 channels x 8 outputs]
__device__ __forceinline__ void multiply(float (&sum)[4], const uint (&pixels)[4], uint low,
                                         uint high) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3},"
        " {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(pixels[0]), "r"(pixels[1]), "r"(pixels[2]), "r"(pixels[3]), "r"(low), "r"(high));
#else  // Turing takes 8 channels at a time
    for (int part = 0; part < 2; part++)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3},"
            " {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(pixels[2 * part]), "r"(pixels[2 * part + 1]), "r"(part ? high : low));
#endif
}

// Loads the tile at (top, left), ROWS + 2 by HALO pixels including neighbours, into shared memory,
// from a picture whose rows end at `end`, or, if `up` is 1, from one half as large, enlarged. Pixels
// beyond the edges are zero.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(uint tile, const half *from, int top, int left,
                                          int end, int width, int up) {
    for (int i = threadIdx.x; i < (ROWS + 2) * HALO * 8; i += THREADS) {
        int pixel = i / 8, part = i % 8;
        int y = top + pixel / HALO - 1, x = left + pixel % HALO - 1;
        bool outside = y < 0 || y >= end || x < 0 || x >= width;
        size_t at = outside ? 0 : (size_t)(y >> up) * (width >> up) + (x >> up);
        copy16(tile + pixel * PITCH + part * 16, from + at * CHANNELS + part * 8, outside);
    }
}

// Each kernel gets its work, which is the same for all pictures of a size, and the places of the
// current picture. Intermediate results are at byte offsets in `memory`. Of a result that is made in
// bands, only the rows of the current band are there: an offset says where row 0 would be.
typedef long long offset;

#define NOTHING (1LL << 62)

// The rows of a band, and the end of those that may be read for it.
struct Rows {
    int top, bottom;

    __device__ int end(int height) const { return min(bottom + 1, height); }
};

struct Places {
    const half *latent;  // [channels][pixels]
    byte *memory;
    byte *picture;       // [height][width][3]
    uint *unknown;       // the number of unknown positions and pixels; initially 0
};

struct Enter {
    offset to;  // half [pixels][64]; channels that the latent lacks are zero
    int channels, pixels;
};

__device__ __forceinline__ bool is_finite(float value) {
    return fabsf(value) <= 65504;
}

extern "C" __global__ void enter(const Enter work, const Places places) {
    half *to = (half *)(places.memory + work.to);
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    bool hole = false;
    if (pixel < work.pixels) {
        for (int first = 0; first < CHANNELS; first += 8) {
            Eight eight;
            for (int i = 0; i < 4; i++) {
                float pair[2] = {0, 0};
                for (int j = 0; j < 2; j++) {
                    int channel = first + 2 * i + j;
                    if (channel >= work.channels) continue;
                    float value = to_float(places.latent[(size_t)channel * work.pixels + pixel]);
                    hole = hole || !is_finite(value);
                    if (is_finite(value)) pair[j] = tanhf(value / 3) * 3;
                }
                eight.pair[i] = to_pair(pair[0], pair[1]);
            }
            *(Eight *)(to + (size_t)pixel * CHANNELS + first) = eight;
        }
    }
    int count = __syncthreads_count(hole);
    if (threadIdx.x == 0 && count) atomicAdd(places.unknown, count);
}

struct Convolution {
    offset source;        // half [height][width][64], or half as large: see `up`
    offset to;            // half [height][width][64]
    offset add;           // what is added before the ReLU, or NOTHING; may be the same as `to`
    const half *weights;  // [tap][output][channel], swizzled
    const float *bias;    // [64]
    int height, width;    // of the result
    Rows rows;            // of the result, which are computed
    int up;               // 1: `source` is enlarged to twice its size
    int relu;
};

// Each warp works on ROWS rows of 16 pixels, so a block's tile has WARPS * ROWS rows.
template <int WARPS, int ROWS>
__device__ __forceinline__ void convolve(const Convolution &work, byte *memory) {
    const half *source = (const half *)(memory + work.source), *added = (half *)(memory + work.add);
    half *to = (half *)(memory + work.to);
    const int down = WARPS * ROWS, threads = WARPS * 32;
    const int tap_bytes = CHANNELS * CHANNELS * 2;
    uint weights = in_shared(shared), tile = weights + 2 * tap_bytes;
    int top = work.rows.top + blockIdx.y * down, left = blockIdx.x * ACROSS;
    int lane = threadIdx.x % 32, first_row = threadIdx.x / 32 * ROWS;

    auto load_tap = [&](int tap) {  // into two buffers alternately
        const byte *from = (const byte *)work.weights + (size_t)tap * tap_bytes;
        for (int i = threadIdx.x; i < tap_bytes / 16; i += threads)
            copy16(weights + tap % 2 * tap_bytes + i * 16, from + i * 16, false);
    };
    load_tile<down, threads>(tile, source, top, left, work.rows.end(work.height), work.width,
                             work.up);
    load_tap(0);

    float sum[ROWS][8][4] = {};
    // Matrices of pixels: pixels 0 to 7 and 8 to 15 of channels 0 to 7, then of channels 8 to 15.
    uint pixels_at = tile + (first_row * HALO + lane % 16) * PITCH + lane / 16 * 16;
    // Of weights: outputs 0 to 7 of channels 0 to 7 and 8 to 15, then outputs 8 to 15.
    uint output = lane % 8 + lane / 16 * 8, channel_part = lane / 8 % 2;
    uint weights_at = weights + output * CHANNELS * 2;

#pragma unroll 1
    for (int tap = 0; tap < TAPS; tap++) {
        arrived();
        __syncthreads();  // this tap has arrived, and nobody reads the previous one any more
        if (tap + 1 < TAPS) load_tap(tap + 1);
        uint pixels_of_tap = pixels_at + (tap / 3 * HALO + tap % 3) * PITCH;
        uint weights_of_tap = weights_at + tap % 2 * tap_bytes;
#pragma unroll
        for (int step = 0; step < CHANNELS / 16; step++) {
            uint pixels[ROWS][4], pair[4][4];
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                load_matrices(pixels[row], pixels_of_tap + row * HALO * PITCH + step * 32);
            uint swizzled = (step * 2 + channel_part ^ output % 8) * 16;
#pragma unroll
            for (int n = 0; n < 4; n++)
                load_matrices(pair[n], weights_of_tap + n * 16 * CHANNELS * 2 + swizzled);
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int row = 0; row < ROWS; row++)
                    multiply(sum[row][n], pixels[row], pair[n / 2][n % 2 * 2],
                             pair[n / 2][n % 2 * 2 + 1]);
        }
    }

    // Each lane has 2 x 8 outputs of two pixels; the order of the weights makes them adjacent.
    int y = top + first_row, x = left + lane / 4, channel = lane % 4 * 8;
    Eight add[ROWS][2][2] = {};  // all loads are issued before any of them is waited for
    if (work.add != NOTHING)
#pragma unroll
        for (int row = 0; row < ROWS; row++)
#pragma unroll
            for (int which = 0; which < 2; which++) {
                if (y + row >= work.rows.bottom || x + which * 8 >= work.width) continue;
                size_t pixel = (size_t)(y + row) * work.width + x + which * 8;
                const half *at = added + pixel * CHANNELS;
                add[row][which][0] = *(const Eight *)(at + channel);
                add[row][which][1] = *(const Eight *)(at + channel + 32);
            }
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float bias[8];
        *(float4 *)bias = *(const float4 *)(work.bias + side * 32 + channel);
        *(float4 *)(bias + 4) = *(const float4 *)(work.bias + side * 32 + channel + 4);
#pragma unroll
        for (int row = 0; row < ROWS; row++)
#pragma unroll
            for (int which = 0; which < 2; which++) {
                Eight result;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float *two = sum[row][side * 4 + i] + which * 2;
                    uint pair = add[row][which][side].pair[i];
                    float low = two[0] + bias[2 * i] + to_float((half)pair);
                    float high = two[1] + bias[2 * i + 1] + to_float((half)(pair >> 16));
                    if (work.relu) {  // NaN stays NaN
                        low = low < 0 ? 0 : low;
                        high = high < 0 ? 0 : high;
                    }
                    result.pair[i] = to_pair(low, high);
                }
                if (y + row >= work.rows.bottom || x + which * 8 >= work.width) continue;
                size_t pixel = (size_t)(y + row) * work.width + x + which * 8;
                *(Eight *)(to + pixel * CHANNELS + side * 32 + channel) = result;
            }
    }
}

extern "C" __global__ void __launch_bounds__(128)
convolve_4_rows(const Convolution work, const Places places) {
    convolve<4, 1>(work, places.memory);
}

extern "C" __global__ void __launch_bounds__(128, 4)  // blocks per multiprocessor
convolve_8_rows(const Convolution work, const Places places) {
    convolve<4, 2>(work, places.memory);
}

struct Leave {
    offset source;        // half [height][width][64]
    offset to;            // half [height][width][4]: red, green, blue and padding
    const half *weights;  // [tap][8 outputs, of which 3 are used][channel], swizzled
    const float *bias;    // [8]
    int height, width, doublings;
    Rows rows;            // which are computed
    int channels;         // of the latent, which has height >> doublings by width >> doublings
};

// Whether any channel of the latent is NaN or infinite at a position.
__device__ __forceinline__ bool is_hole(const half *latent, size_t position, size_t positions,
                                        int channels) {
    for (int channel = 0; channel < channels; channel++)
        if (!is_finite(to_float(latent[channel * positions + position]))) return true;
    return false;
}

#define LEAVE_WARPS 4
#define LEAVE_ROWS 2  // per warp

// The last convolution. Pixels that are NaN, or whose latent was not finite, become grey.
extern "C" __global__ void __launch_bounds__(LEAVE_WARPS * 32)
leave(const Leave work, const Places places) {
    const int down = LEAVE_WARPS * LEAVE_ROWS, threads = LEAVE_WARPS * 32;
    const int tap_bytes = 8 * CHANNELS * 2;
    uint weights = in_shared(shared), tile = weights + TAPS * tap_bytes;
    int top = work.rows.top + blockIdx.y * down, left = blockIdx.x * ACROSS;
    int lane = threadIdx.x % 32, first_row = threadIdx.x / 32 * LEAVE_ROWS;

    half *to = (half *)(places.memory + work.to);
    load_tile<down, threads>(tile, (const half *)(places.memory + work.source), top, left,
                             work.rows.end(work.height), work.width, 0);
    for (int i = threadIdx.x; i < TAPS * tap_bytes / 16; i += threads)
        copy16(weights + i * 16, (const byte *)work.weights + i * 16, false);
    arrived();
    __syncthreads();

    float sum[LEAVE_ROWS][4] = {};
    uint pixels_at = tile + (first_row * HALO + lane % 16) * PITCH + lane / 16 * 16;
    uint weights_at = weights + lane % 8 * CHANNELS * 2;
#pragma unroll 3
    for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
        for (int step = 0; step < CHANNELS / 32; step++) {
            uint four[4];  // with 8 channels each
            load_matrices(four, weights_at + tap * tap_bytes
                                + (step * 4 + lane / 8 ^ lane % 8) * 16);
#pragma unroll
            for (int row = 0; row < LEAVE_ROWS; row++) {
                uint at = pixels_at + ((row + tap / 3) * HALO + tap % 3) * PITCH + step * 64;
                uint pixels[4];
                load_matrices(pixels, at);
                multiply(sum[row], pixels, four[0], four[1]);
                load_matrices(pixels, at + 32);
                multiply(sum[row], pixels, four[2], four[3]);
            }
        }

    int quarter = lane % 4;  // 0 has red and green, 1 has blue, the others have padding
    float low = work.bias[quarter * 2], high = work.bias[quarter * 2 + 1];
#pragma unroll
    for (int row = 0; row < LEAVE_ROWS; row++)
#pragma unroll
        for (int which = 0; which < 2; which++) {
            int y = top + first_row + row, x = left + lane / 4 + which * 8;
            bool inside = y < work.rows.bottom && x < work.width;
            float first = sum[row][which * 2] + low, second = sum[row][which * 2 + 1] + high;
            bool nan = first != first || (quarter == 0 && second != second);
            nan = __shfl_xor_sync(~0u, nan, 1) || nan;
            uint nans = __ballot_sync(~0u, nan && inside && quarter == 0);
            if (lane == 0 && nans) atomicAdd(places.unknown, __popc(nans));
            if (!inside || quarter > 1) continue;
            int h = work.height >> work.doublings, w = work.width >> work.doublings;
            size_t position = (size_t)(y >> work.doublings) * w + (x >> work.doublings);
            if (nan || is_hole(places.latent, position, (size_t)h * w, work.channels))
                first = second = 0.5f;
            size_t at = ((size_t)y * work.width + x) * 4 + quarter * 2;
            *(uint *)(to + at) = to_pair(first, second);
        }
}

struct Finish {
    offset source;  // half [source_height][source_width][4]
    int source_height, source_width;
    int height, width;  // the same, or smaller: then pixels are averaged
};

// Shrinks by area and rounds to nearest, ties to even.
extern "C" __global__ void finish(const Finish work, const Places places) {
    const half *source = (const half *)(places.memory + work.source);
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= work.width) return;
    long long down = work.source_height, across = work.source_width;
    int top = (int)(y * down / work.height), left = (int)(x * across / work.width);
    int bottom = (int)(((y + 1) * down + work.height - 1) / work.height);
    int right = (int)(((x + 1) * across + work.width - 1) / work.width);
    float sum[3] = {};
    for (int i = top; i < bottom; i++)
        for (int j = left; j < right; j++) {
            uint2 pixel = *(const uint2 *)(source + ((size_t)i * work.source_width + j) * 4);
            sum[0] += to_float((half)pixel.x);
            sum[1] += to_float((half)(pixel.x >> 16));
            sum[2] += to_float((half)pixel.y);
        }
    for (int i = 0; i < 3; i++) {
        float mean = sum[i] / ((bottom - top) * (right - left));
        float level = fminf(fmaxf(mean, 0), 1) * 255;
        places.picture[((size_t)y * work.width + x) * 3 + i] = (byte)__float2uint_rn(level);
    }
}
