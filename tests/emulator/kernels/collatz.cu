// Steps of the Collatz sequence from each start to 1: every thread leaves the loop at a time of its own.
extern "C" __global__ void collatz(int n, const long long* start, int* steps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    long long value = start[i];
    int count = 0;
    while (value != 1) {
        if (value % 2 == 0)
            value /= 2;
        else
            value = 3 * value + 1;
        count++;
    }
    steps[i] = count;
}
