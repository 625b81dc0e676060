// malloc, free, new and delete in kernels.

struct Item {
    int value;
    Item* next;
};

// Each thread makes a list of its own, and adds it up as it frees it.
extern "C" __global__ void lists(int* sums, int length) {
    Item* first = nullptr;
    for (int i = 0; i < length; i++) {
        Item* item = static_cast<Item*>(malloc(sizeof(Item)));
        item->value = threadIdx.x + i;
        item->next = first;
        first = item;
    }
    int sum = 0;
    while (first != nullptr) {
        Item* next = first->next;
        sum += first->value;
        free(first);
        first = next;
    }
    sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// All threads push to one list; the last launch takes it apart.
__device__ Item* head;

extern "C" __global__ void push(int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Item* item = new Item{i, nullptr};
    unsigned long long seen = 0, assumed;  // a guess, which the first try puts right
    do {
        assumed = seen;
        item->next = reinterpret_cast<Item*>(assumed);
        seen = atomicCAS(reinterpret_cast<unsigned long long*>(&head), assumed,
                         reinterpret_cast<unsigned long long>(item));
    } while (seen != assumed);
}

extern "C" __global__ void pop_all(int* values) {
    int n = 0;
    for (Item* item = head; item != nullptr; n++) {
        values[n] = item->value;
        Item* next = item->next;
        delete item;
        item = next;
    }
    head = nullptr;
}

// One block of memory for all threads of a block.
extern "C" __global__ void shared_block(int* out, int n) {
    __shared__ int* block;
    if (threadIdx.x == 0) block = static_cast<int*>(malloc(n * sizeof(int)));
    __syncthreads();
    if (block == nullptr) return;
    for (int i = threadIdx.x; i < n; i += blockDim.x) block[i] = i * i;
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = block[n - 1 - threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) free(block);
}

// Objects on the heap, known by their base.
struct Animal {
    __device__ virtual int legs() const = 0;
    __device__ virtual ~Animal() {}
};
struct Bird : Animal {
    __device__ int legs() const override { return 2; }
};
struct Insect : Animal {
    int pairs;
    __device__ Insect() : pairs(3) {}
    __device__ int legs() const override { return 2 * pairs; }
};

extern "C" __global__ void legs(int* out) {
    Animal* animals[3] = {new Bird, new Insect, new Bird};
    int sum = 0;
    for (int i = 0; i < 3; i++)
        if (i != threadIdx.x) sum += animals[i]->legs();
    for (int i = 0; i < 3; i++) delete animals[i];
    out[threadIdx.x] = sum;
}

// Of a type that is aligned to more than malloc's 16 bytes.
struct alignas(64) Line {
    float v[16];
};

extern "C" __global__ void lines(unsigned long long* where) {
    Line* line = new Line[2];
    where[threadIdx.x] = reinterpret_cast<unsigned long long>(line);
    line[1].v[15] = 1;
    delete[] line;
}

// What malloc gives, for the host to see; nothing is freed.
extern "C" __global__ void keep(unsigned long long* where, unsigned long long size) {
    where[blockIdx.x * blockDim.x + threadIdx.x] = reinterpret_cast<unsigned long long>(malloc(size));
}

extern "C" __global__ void give_back(const unsigned long long* where) {
    free(reinterpret_cast<void*>(where[blockIdx.x * blockDim.x + threadIdx.x]));
}

extern "C" __global__ void fill(const unsigned long long* where, int value) {
    reinterpret_cast<int*>(where[threadIdx.x])[0] = value;
}
