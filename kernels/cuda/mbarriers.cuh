// Barriers in shared memory that threads and copies arrive at, and that a thread may wait for later than it arrives.
//
// Such a barrier goes through phases. A phase ends when as many threads have arrived as the barrier was made for, and as
// many bytes as they said to expect; then the next one begins by itself. Who waits names the phase by its parity, 0 for
// the first: a barrier is never two phases ahead of who waits for it.
#pragma once

struct Barrier {
    unsigned address;  // in shared memory, of 8 bytes

    static constexpr int BYTES = 8;

    __device__ __forceinline__ void make(int arrivals) const {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory");
    }

    // All threads' writes, and what they have waited for, come before what those see that wait.
    __device__ __forceinline__ void arrive() const {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
    }

    // Arrive at this barrier of another block of the cluster.
    __device__ __forceinline__ void arrive_at(unsigned block) const {
        asm volatile(
            "{\n"
            ".reg .b32 there;\n"
            "mapa.shared::cluster.u32 there, %0, %1;\n"
            "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n"
            "}" ::"r"(address),
            "r"(block)
            : "memory");
    }

    // Arrive, for copies of so many bytes too.
    __device__ __forceinline__ void expect(int bytes) const {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
    }

    __device__ __forceinline__ void wait(unsigned parity) const {
        while (!is_over(parity)) {
        }
    }

    // The instruction itself waits for a while.
    __device__ __forceinline__ bool is_over(unsigned parity) const {
        unsigned over;
        asm volatile(
            "{\n"
            ".reg .pred over;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
            "selp.b32 %0, 1, 0, over;\n"
            "}"
            : "=r"(over)
            : "r"(address), "r"(parity)
            : "memory");
        return over != 0;
    }
};

// Barriers that have been made are there for copies too, and for other blocks of the cluster.
__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Blocks of a cluster: neighbours in the grid that run at once, and reach each other's shared memory. Each has a rank.
__device__ __forceinline__ unsigned rank_in_cluster() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// All threads of all blocks of the cluster meet.
__device__ __forceinline__ void sync_cluster() {
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}
