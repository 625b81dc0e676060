// Small programs as people write them: objects, trees, searches and interpreters, with calls of every kind.

// Lambdas and pointers to members.
__device__ float apply(float (*function)(float), float x) { return function(x); }

extern "C" __global__ void lambdas(float* x) {
    float (*functions[3])(float) = {[](float a) { return a + 1; }, [](float a) { return a * a; },
                                    [](float a) { return sqrtf(a); }};
    x[threadIdx.x] = apply(functions[threadIdx.x % 3], x[threadIdx.x]);
}

struct Value {
    int v;
    __device__ int plus(int k) const { return v + k; }
    __device__ int times(int k) const { return v * k; }
};
__device__ int (Value::*operations[2])(int) const = {&Value::plus, &Value::times};

extern "C" __global__ void members(int* out) {
    Value value{static_cast<int>(threadIdx.x)};
    out[threadIdx.x] = (value.*operations[threadIdx.x & 1])(10);
}

// Two bases: the second one's functions and destructor are reached through thunks.
struct First {
    int a;
    __device__ explicit First(int i) : a(i) {}
    __device__ virtual int one() { return a; }
    __device__ virtual ~First() {}
};
struct Second {
    int b;
    __device__ explicit Second(int i) : b(i) {}
    __device__ virtual int two() { return b; }
    __device__ virtual ~Second() {}
};
struct Both : First, Second {
    int c;
    __device__ explicit Both(int i) : First(i), Second(2 * i), c(3 * i) {}
    __device__ int one() override { return a + c; }
    __device__ int two() override { return b + 10 * c; }
};

extern "C" __global__ void two_bases(int* out) {
    Both* both = new Both(threadIdx.x);
    First* first = both;
    Second* second = both;
    out[threadIdx.x] = first->one() * 1000 + second->two();
    delete second;
}

// Each thread sorts a row by a binary tree.
struct Tree {
    int key;
    Tree *left, *right;
    __device__ explicit Tree(int k) : key(k), left(nullptr), right(nullptr) {}
};

__device__ Tree* insert(Tree* tree, int key) {
    if (tree == nullptr) return new Tree(key);
    if (key < tree->key)
        tree->left = insert(tree->left, key);
    else
        tree->right = insert(tree->right, key);
    return tree;
}

__device__ void walk(const Tree* tree, int* out, int* count) {
    if (tree == nullptr) return;
    walk(tree->left, out, count);
    out[(*count)++] = tree->key;
    walk(tree->right, out, count);
}

__device__ void destroy(Tree* tree) {
    if (tree == nullptr) return;
    destroy(tree->left);
    destroy(tree->right);
    delete tree;
}

extern "C" __global__ void tree_sort(int* x, int width) {
    int* row = x + threadIdx.x * width;
    Tree* tree = nullptr;
    for (int i = 0; i < width; i++) tree = insert(tree, row[i]);
    int count = 0;
    walk(tree, row, &count);
    destroy(tree);
}

// The number of ways to place n queens.
__device__ int queens(int n, int row, unsigned columns, unsigned up, unsigned down) {
    if (row == n) return 1;
    int found = 0;
    for (int column = 0; column < n; column++) {
        unsigned c = 1u << column, u = 1u << (row + column), d = 1u << (row - column + n);
        if (!(columns & c) && !(up & u) && !(down & d)) found += queens(n, row + 1, columns | c, up | u, down | d);
    }
    return found;
}

extern "C" __global__ void queens_of(int* out) { out[threadIdx.x] = queens(1 + threadIdx.x % 6, 0, 0, 0, 0); }

// A recursion in the argument of a recursion.
__device__ unsigned ackermann(unsigned m, unsigned n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

extern "C" __global__ void ackermanns(int* out) { out[threadIdx.x] = ackermann(threadIdx.x % 3, threadIdx.x % 4); }

// A hash table of lists, filled by all threads.
struct Cell {
    int key;
    Cell* next;
};
__device__ Cell* buckets[8];

extern "C" __global__ void hash_put(const int* keys, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Cell* cell = static_cast<Cell*>(malloc(sizeof(Cell)));
    cell->key = keys[i];
    auto bucket = reinterpret_cast<unsigned long long*>(&buckets[keys[i] & 7]);
    cell->next = reinterpret_cast<Cell*>(atomicExch(bucket, reinterpret_cast<unsigned long long>(cell)));
}

extern "C" __global__ void hash_count(int* out) {
    int count = 0;
    for (Cell* cell = buckets[threadIdx.x]; cell != nullptr; count++) {
        Cell* next = cell->next;
        free(cell);
        cell = next;
    }
    buckets[threadIdx.x] = nullptr;
    out[threadIdx.x] = count;
}

// An interpreter: each operation calls the next one through a table.
using Operation = int (*)(const unsigned char*, int, int);
__device__ int interpret(const unsigned char* code, int at, int value);
__device__ int add(const unsigned char* code, int at, int value) { return interpret(code, at + 2, value + code[at + 1]); }
__device__ int multiply(const unsigned char* code, int at, int value) {
    return interpret(code, at + 2, value * code[at + 1]);
}
__device__ int stop(const unsigned char*, int, int value) { return value; }
__constant__ Operation instructions[3] = {add, multiply, stop};
__device__ int interpret(const unsigned char* code, int at, int value) {
    return instructions[code[at]](code, at, value);
}

extern "C" __global__ void run(const unsigned char* code, int* out) {
    out[threadIdx.x] = interpret(code, 0, threadIdx.x);
}
