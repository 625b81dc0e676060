// Calls that cannot be inlined: function pointers, virtual functions, recursion.

typedef float (*Binary)(float, float);

__device__ float add(float a, float b) { return a + b; }
__device__ float multiply(float a, float b) { return a * b; }
__device__ float subtract(float a, float b) { return a - b; }
__device__ double halve(double a) { return a / 2; }

struct Named {
    char name;
    Binary function;
    int priority;
};

__device__ Binary table[3] = {add, multiply, subtract};
__constant__ Named operators[2] = {{'+', add, 1}, {'*', multiply, 2}};
__device__ Binary chosen = subtract;
__device__ double (*other)(double) = halve;

extern "C" __global__ void by_table(const int* which, const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float first = table[which[i]](a[i], b[i]);
    Named operation = operators[which[i] % 2];
    float second = operation.function(first, b[i]);
    c[i] = chosen(second, operation.priority);
}

// A pointer that the host got from `hand_out` comes back as an argument.
extern "C" __global__ void hand_out(Binary* out) {
    out[0] = multiply;
    out[1] = subtract;
}

extern "C" __global__ void by_argument(Binary function, float* x) {
    x[threadIdx.x] = function(x[threadIdx.x], 3);
}

// Virtual functions of objects in a thread's own memory.
struct Shape {
    __device__ virtual float area() const = 0;
    __device__ virtual float perimeter() const { return 0; }
};

struct Square : Shape {
    float side;
    __device__ explicit Square(float s) : side(s) {}
    __device__ float area() const override { return side * side; }
    __device__ float perimeter() const override { return 4 * side; }
};

struct Dot : Shape {
    __device__ float area() const override { return 0; }
};

__device__ __noinline__ float sum(const Shape* shape) { return shape->area() + shape->perimeter(); }

extern "C" __global__ void shapes(float* out) {
    Square square(threadIdx.x);
    Dot dot;
    const Shape* shape = threadIdx.x % 3 ? static_cast<const Shape*>(&square) : &dot;
    out[threadIdx.x] = sum(shape);
}

// Recursion, with arrays that each call has for itself.
__device__ int fibonacci(int n) {
    int known[4] = {n, n + 1, n + 2, n + 3};
    if (n < 2) return n;
    int sum = fibonacci(n - 1) + fibonacci(n - 2);
    return sum + known[n & 3] - n - (n & 3);
}

extern "C" __global__ void fibonaccis(int* out) { out[threadIdx.x] = fibonacci(threadIdx.x % 11); }

__device__ int odd(unsigned n);
__device__ __noinline__ int even(unsigned n) { return n == 0 ? 1 : odd(n - 1); }
__device__ __noinline__ int odd(unsigned n) { return n == 0 ? 0 : even(n - 1); }

extern "C" __global__ void parity(int* out) { out[threadIdx.x] = even(threadIdx.x); }

// Each thread sorts its own row.
__device__ void quicksort(int* x, int low, int high) {
    if (low >= high) return;
    int pivot = x[(low + high) / 2], i = low, j = high;
    while (i <= j) {
        while (x[i] < pivot) i++;
        while (x[j] > pivot) j--;
        if (i <= j) {
            int swapped = x[i];
            x[i++] = x[j];
            x[j--] = swapped;
        }
    }
    quicksort(x, low, j);
    quicksort(x, i, high);
}

extern "C" __global__ void sort_rows(int* x, int width) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    quicksort(x + row * width, 0, width - 1);
}

// Each thread adds up the tree below one node.
struct Node {
    int value, left, right;  // -1: none
};

__device__ int total(const Node* nodes, int at) {
    if (at < 0) return 0;
    int left = total(nodes, nodes[at].left);
    return left + nodes[at].value + total(nodes, nodes[at].right);
}

extern "C" __global__ void totals(const Node* nodes, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = total(nodes, i);
}

// A structure goes in and comes back by value.
struct Six {
    double v[6];
};

__device__ __noinline__ Six shifted(Six six, int n) {
    if (n == 0) return six;
    six.v[n % 6] += n;
    return shifted(six, n - 1);
}

extern "C" __global__ void by_value(Six six, Six* out) { out[threadIdx.x] = shifted(six, threadIdx.x); }

// Threads that were in different functions meet again: all take part in the vote and the shuffle.
__device__ int lane_of(int x) { return __popc(__ballot_sync(__activemask(), x >= 0)); }
__device__ int zero(int) { return 0; }
__device__ int (*counts[2])(int) = {lane_of, zero};

extern "C" __global__ void meet(int* together, int* inside) {
    int there = counts[threadIdx.x % 2](threadIdx.x);
    together[threadIdx.x] = __popc(__activemask()) + __shfl_xor_sync(0xffffffff, there, 1);
    inside[threadIdx.x] = there;
}

// A barrier within a function that is called through a pointer.
__device__ float reversed(float* shared, int n) {
    __syncthreads();
    return shared[n - 1 - threadIdx.x];
}
__device__ float same(float* shared, int n) { return shared[threadIdx.x]; }
__device__ float (*readers[2])(float*, int) = {reversed, same};

extern "C" __global__ void read(float* x, int which) {
    __shared__ float shared[64];
    shared[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = readers[which](shared, 64);
}

// Stores in functions that are called through a pointer; with `share` above 1 several threads store in one place.
__device__ void put(int* x, int i) { x[i] = i; }
__device__ void increase(int* x, int i) { x[i] += threadIdx.x + 1; }
__device__ void (*stores[2])(int*, int) = {put, increase};

extern "C" __global__ void store(int* x, int which, int share) { stores[which](x, threadIdx.x / share); }

// Threads that wait in two functions: for each other, and for what nobody does.
__device__ void first_wait(volatile int* x) { __syncthreads(); }
__device__ void second_wait(volatile int* x) { __syncthreads(); }
__device__ void third_wait(volatile int* x) {
    while (*x == 0) {}
}
__device__ void (*waits[3])(volatile int*) = {first_wait, second_wait, third_wait};

extern "C" __global__ void wait(int* x, const int* which) { waits[which[threadIdx.x]](x); }

// What ends threads, and what speaks, in functions called through pointers.
__device__ void say(int x) { printf("thread %d says %d, %s\n", threadIdx.x, x, "and that is that"); }
__device__ void leave(int x) {
    if (x % 2) asm volatile("exit;");
}
__device__ void check(int x) { assert(x < 3); }
__device__ void stop(int x) {
    if (x == 5) __trap();
}
__device__ void pause(int x) {
    if (x == 6) __brkpt();
}
__device__ void (*actions[5])(int) = {say, leave, check, stop, pause};
__device__ __noinline__ void act(int which, int x) { actions[which](x); }

extern "C" __global__ void acts(int which, int* out) {
    act(which, threadIdx.x);
    out[threadIdx.x] = 1;
}
