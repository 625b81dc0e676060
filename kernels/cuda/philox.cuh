// Philox4×32-10, a generator without a state: four random words for a counter of four words and a key of two.
//
// Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 3.3. The constants are those of
// ../philox.py, which a test compares with these.
#pragma once

struct Philox {
    static constexpr int ROUNDS = 10;
    static constexpr unsigned MULTIPLIERS[2] = {0xD2511F53, 0xCD9E8D57};
    static constexpr unsigned KEY_STEPS[2] = {0x9E3779B9, 0xBB67AE85};

    // A word of the counter is multiplied by a constant, and the halves of the product change the other words.
    static __device__ __forceinline__ uint4 words(uint4 counter, uint2 key) {
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            unsigned low0 = MULTIPLIERS[0] * counter.x, high0 = __umulhi(MULTIPLIERS[0], counter.x);
            unsigned low1 = MULTIPLIERS[1] * counter.z, high1 = __umulhi(MULTIPLIERS[1], counter.z);
            counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
            key.x += KEY_STEPS[0];
            key.y += KEY_STEPS[1];
        }
        return counter;
    }
};
