// Kernels with asynchronous copies and products, and bugs planted in them: BUG 0 is right.

typedef unsigned long long u64;
struct alignas(64) Map { u64 words[16]; };

__device__ inline unsigned address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ inline void init(unsigned bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
__device__ inline void init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void expect(unsigned bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ inline void arrive(unsigned bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ inline void arrive_remote(unsigned bar, int rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(bar), "r"(rank) : "memory");
}
__device__ inline void wait(unsigned bar, unsigned parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra AGAIN;\n}" ::"r"(bar), "r"(parity) : "memory");
}
__device__ inline void load(unsigned to, const Map* map, int x, int y, unsigned bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
__device__ inline void load_range(unsigned to, const void* from, int bytes, unsigned bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(bar) : "memory");
}
__device__ inline void store_range(void* to, unsigned from, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
__device__ inline void commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> __device__ inline void stored() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
template <int N> __device__ inline void source_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
__device__ inline void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ inline void product_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline u64 descriptor(unsigned at) { return 1ull << 62 | 1024ull >> 4 << 32 | (at & 0x3FFFF) >> 4; }
__device__ inline void product(float (&d)[4], u64 a, u64 b, int keeps) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, p, 1, 1, 0, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b), "r"(keeps));
}
__device__ inline void product_of_registers(float (&d)[4], const unsigned (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

constexpr int STAGES = 2, A_BYTES = 64 * 128, B_BYTES = 8 * 128, STAGE = A_BYTES + B_BYTES;

// C (64, 8) = A B^T over `rounds` tiles of 64 along K: a producer warp, and a warpgroup that multiplies.
template <int BUG>
__global__ void __launch_bounds__(160) ring(const __grid_constant__ Map a, const __grid_constant__ Map b, float* c, int rounds) {
    __shared__ alignas(1024) unsigned char tiles[STAGES][STAGE];
    __shared__ alignas(8) u64 bars[2 * STAGES + 1];
    unsigned full = address(bars), empty = full + 8 * STAGES, first = address(tiles);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            init(full + 8 * s, 1);
            init(empty + 8 * s, BUG == 1 ? 2 : 1);  // more arrivals than come
        }
        init_fence();
    }
    if (BUG == 2) __syncwarp(); else __syncthreads();  // the others may find no mbarrier
    if (threadIdx.x >= 128) {
        if (threadIdx.x != 128) return;
        for (int i = 0; i < rounds; i++) {
            int s = i % STAGES;
            if (BUG != 3 && !(BUG == 1 && i < STAGES))  // 3: fills a stage that may be in use
                wait(empty + 8 * s, i / STAGES & 1 ^ 1);
            unsigned to = first + s * STAGE;
            int bytes = BUG == 4 ? A_BYTES : BUG == 5 ? STAGE + 64 : STAGE;  // too few, too many
            expect(full + 8 * s, bytes);
            load(to, &a, 64 * i, 0, full + 8 * s);
            load(to + A_BYTES, &b, 64 * i, 0, full + 8 * s);
        }
        return;
    }
    float d[4] = {};
    if (BUG != 6) product_fence();  // 6: none at all
    for (int i = 0; i < rounds; i++) {
        int s = i % STAGES;
        if (BUG == 7) wait(full + 8 * (1 - s), i / STAGES & 1);  // that of the other stage
        else if (BUG == 8) wait(full + 8 * s, 1);  // always the phase before the first
        else if (BUG != 9) wait(full + 8 * s, i / STAGES & 1);  // 9: not at all
        unsigned at = first + s * STAGE;
        if (BUG == 10) d[0] = d[0] * 1.5f + (float)i;  // and no fence after it
        else if (i) product_fence();
        for (int k = 0; k < 4; k++) product(d, descriptor(at + 32 * k), descriptor(at + A_BYTES + 32 * k), 1);
        if (BUG != 11) product_commit();  // 11: the wait covers nothing
        if (BUG == 12 && threadIdx.x == 0) arrive(empty + 8 * s);  // gives the stage back before the wait
        if (BUG == 13) product_wait<1>(); else product_wait<0>();  // a wait that does not cover it
        if (BUG == 14) continue;  // never gives it back
        if (BUG != 12 && threadIdx.x == 0) arrive(empty + 8 * s);
        if (BUG == 15 && threadIdx.x == 32) arrive(empty + 8 * s);  // once too often
    }
    for (int r = 0; r < 4; r++) {
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * (r / 2), column = 2 * (threadIdx.x % 4) + r % 2;
        c[8 * row + column] = d[r];
    }
}

// Threads write the operands of a product themselves; A may lie in registers.
template <int BUG>
__global__ void __launch_bounds__(128) direct(float* c) {
    __shared__ alignas(1024) unsigned tile[64 * 32 + 8 * 32];
    unsigned a[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
    if (BUG == 3) proxy_fence();  // before the writes
    for (int i = threadIdx.x; i < 72 * 32; i += 128) tile[i] = 0x3f803f80u;
    if (BUG != 1 && BUG != 3) proxy_fence();
    if (BUG == 2) __syncwarp(); else __syncthreads();
    float d[4], e[4] = {};
    u64 left = descriptor(address(tile)), right = descriptor(address(tile) + A_BYTES);
    product_fence();
    product(d, left, right, 0);
    product_of_registers(e, a, right);
    product_commit();
    float early = 0;
    if (BUG == 4) asm volatile("add.f32 %0, %1, %1;" : "=f"(early) : "f"(d[1]));  // before the wait
    if (BUG == 5)  // an operand is overwritten while it is used
#pragma unroll 1
        for (int i = 0; i < 2; i++) {
            a[1] += threadIdx.x;
            product_of_registers(e, a, right);
            product_commit();
        }
    if (BUG == 6) tile[threadIdx.x] = 7;  // as well
    if (BUG != 7) product_wait<0>();  // 7: nobody waits
    if (BUG == 8) {  // another product, and no fence since the registers have been used
        d[0] += 1;
        asm volatile("" : "+f"(d[0]));
        product(d, left, right, 1);
        product_commit();
        product_wait<0>();
    }
    c[threadIdx.x] = d[0] + d[1] + d[2] + d[3] + early;
    c[128 + threadIdx.x] = e[0] + e[1] + e[2] + e[3];
}

// Every thread writes a word, and thread 0 stores all of them, twice from one place.
template <int BUG>
__global__ void __launch_bounds__(64) results(int* out, int* seen) {
    __shared__ alignas(128) int tile[64];
    for (int i = 0; i < 2; i++) {
        tile[threadIdx.x] = 64 * i + threadIdx.x;
        if (BUG != 1) proxy_fence();
        if (BUG == 2) __syncwarp(); else __syncthreads();
        if (threadIdx.x == 0) {
            store_range(out + 64 * i, address(tile), 256);
            if (BUG != 3) commit();  // 3: in no group
            if (BUG == 4) source_read<1>();  // waits for the group before
            else if (BUG != 5) source_read<0>();
        }
        if (BUG == 5 && threadIdx.x == 1) source_read<0>();  // by a thread that has issued nothing
        if (BUG == 6) __syncwarp(); else __syncthreads();  // 6: the others do not know of it
    }
    if (BUG == 9) return;
    if (threadIdx.x == 0 && BUG != 7) stored<0>();  // 7: the sources are read, and no more
    if (BUG == 8) __syncwarp(); else __syncthreads();  // 8: the others do not know of it
    seen[threadIdx.x] = out[threadIdx.x ^ 32];
}
template <int BUG>
__global__ void __launch_bounds__(64) leaves(int* out) {
    __shared__ alignas(128) int tile[64];
    tile[threadIdx.x] = threadIdx.x;
    proxy_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_range(out, address(tile), 256);
        commit();
        if (BUG != 1) source_read<0>();  // 1: the block ends before its shared memory has been read
    }
}

// A tile that is loaded again and again, and read by threads.
template <int BUG>
__global__ void __launch_bounds__(64) again(const int* in, int* out, int rounds) {
    __shared__ alignas(128) int tile[64];
    __shared__ alignas(8) u64 bars[2];
    unsigned full = address(bars), empty = full + 8;
    if (BUG == 1 && threadIdx.x == 0) arrive(full);  // before its init
    if (threadIdx.x == 0) {
        init(full, 1);
        init(empty, 64);
        if (BUG == 2) init(full, 1);  // twice
    }
    if (BUG == 3 && threadIdx.x == 0) bars[0] = 5;  // overwrites it
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < rounds; i++) {
        if (threadIdx.x == 0) {
            if (BUG != 4) wait(empty, i & 1 ^ 1);  // 4: others may still read
            expect(full, 256);
            load_range(address(tile), in + 64 * i, 256, full);
        }
        if (BUG == 5 && i) arrive(empty);  // before it has seen the phase, and read the tile
        if (BUG == 6) wait(full, 0);  // the parity of the first phase, for ever
        else if (BUG != 7) wait(full, i & 1);
        if (BUG == 7) __nanosleep(100);
        if (BUG == 8 && threadIdx.x == 5) tile[9] = 0;
        sum += tile[63 - threadIdx.x];
        if (BUG != 5 || !i) arrive(empty);
    }
    out[threadIdx.x] = sum;
}

// A tile is loaded again once all threads have read it: for this they execute a proxy fence, in strict code.
template <int BUG>
__global__ void __launch_bounds__(64) reload(const int* in, int* out) {
    __shared__ alignas(128) int tile[64];
    __shared__ alignas(8) u64 bar;
    if (threadIdx.x == 0) init(address(&bar), 1);
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < 2; i++) {
        if (threadIdx.x == 0) {
            expect(address(&bar), 256);
            load_range(address(tile), in + 64 * i, 256, address(&bar));
        }
        wait(address(&bar), i);
        sum += tile[threadIdx.x ^ 7];
        if (BUG != 1) proxy_fence();
        if (BUG == 2) sum += tile[threadIdx.x ^ 3];  // after the fence
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}

// The box sticks out of the array, and its bytes count as a whole.
template <int BUG>
__global__ void __launch_bounds__(32) edge(const __grid_constant__ Map map, float* out) {
    __shared__ alignas(128) float tile[4 * 16];
    __shared__ alignas(8) u64 bar;
    if (threadIdx.x == 0) {
        init(address(&bar), 1);
        expect(address(&bar), BUG == 1 ? 2 * 64 : BUG == 2 ? 4 * 64 - 16 : 4 * 64);
        load(address(tile), &map, 0, 6, address(&bar));
    }
    __syncwarp();
    wait(address(&bar), 0);
    out[threadIdx.x] = tile[threadIdx.x] + tile[threadIdx.x + 32];
}

// Two blocks: each reads the other's shared memory, and arrives at its mbarrier.
template <int BUG>
__global__ void __cluster_dims__(2) __launch_bounds__(32) pair(int* out) {
    __shared__ int value[32];
    __shared__ alignas(8) u64 bar;
    unsigned rank, there;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    value[threadIdx.x] = 100 * rank + threadIdx.x;
    if (threadIdx.x == 0) {
        init(address(&bar), 1);
        if (BUG != 1) init_fence();
    }
    if (BUG == 2) __syncthreads(); else cluster_sync();  // 2: the other block may not be so far
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(value)), "r"(rank ^ 1));
    int found;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(found) : "r"(there + 4 * (31 - threadIdx.x)) : "memory");
    if (threadIdx.x == 0 && BUG != 5) arrive_remote(address(&bar), rank ^ 1);
    if (BUG != 3) wait(address(&bar), 0);
    if (BUG == 6) asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there + 4 * threadIdx.x), "r"(7) : "memory");
    if (BUG == 4) value[threadIdx.x] = 5;  // while others of the other block may read it
    out[32 * rank + threadIdx.x] = found;
    if (BUG == 7) asm volatile("barrier.cluster.arrive.release;" ::: "memory");  // and once more
    if (BUG != 3 && BUG != 6 && BUG != 8) cluster_sync();
}
template <int BUG>
__global__ void __cluster_dims__(2) __launch_bounds__(32) both(const int* in, int* out) {
    __shared__ alignas(128) int tile[32];
    __shared__ alignas(8) u64 bar;
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        init(address(&bar), 1);
        if (BUG != 1) init_fence();
        if (BUG != 3) expect(address(&bar), 128);
    }
    if (BUG == 2) __syncthreads(); else cluster_sync();
    if (BUG == 3 && threadIdx.x == 0 && rank == 0) expect(address(&bar), 128);  // and the other block expects nothing
    if (rank == 0 && threadIdx.x == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 128, "
                     "[%2], %3;" ::"r"(address(tile)), "l"(in), "r"(address(&bar)), "h"((short)(BUG == 4 ? 1 : 3)) : "memory");
    wait(address(&bar), 0);
    out[32 * rank + threadIdx.x] = tile[threadIdx.x];
    if (BUG != 5) cluster_sync();
}

// Warpgroups that hand registers to each other: 168 a thread at the launch.
template <int BUG>
__global__ void __launch_bounds__(384, 1) roles(int* out) {
    if (threadIdx.x < 128) {
        if (BUG == 5) asm volatile("setmaxnreg.dec.sync.aligned.u32 176;");
        else if (BUG != 1 || threadIdx.x < 96) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (BUG == 2 && threadIdx.x < 32) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (BUG == 7) asm volatile("setmaxnreg.dec.sync.aligned.u32 48;");
    } else {
        if (BUG == 6) asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
        else if (BUG == 3) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        else if (BUG != 4 || threadIdx.x < 256) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        if (BUG == 4 && threadIdx.x >= 256) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    }
    asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
    out[threadIdx.x] = threadIdx.x;
}

// A thread polls for what another one, or nobody, will do.
template <int BUG>
__global__ void __launch_bounds__(64) polls(const int* in, int* out) {
    __shared__ alignas(128) int tile[32];
    __shared__ alignas(8) u64 bar;
    __shared__ volatile int flag;
    if (threadIdx.x == 0) {
        init(address(&bar), 1);
        flag = 0;
    }
    __syncthreads();
    if (threadIdx.x == 32) {
        expect(address(&bar), BUG == 1 ? 256 : 128);
        load_range(address(tile), in, 128, address(&bar));
    }
    if (threadIdx.x < 32) {
        unsigned done = 0;
        while (!done)
            asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], 0;\nselp.u32 %0, 1, 0, p;\n}"
                         : "=r"(done) : "r"(address(&bar)) : "memory");
        out[threadIdx.x] = tile[threadIdx.x];
        if (BUG != 2) { __threadfence_block(); __syncwarp(); if (threadIdx.x == 0) flag = 1; }
    } else {
        while (!flag) {}
    }
}
