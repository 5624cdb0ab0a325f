// Launches a kernel by its name.

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

template <class... A>
static void launch(void (*kernel)(A...), const unsigned* grid, unsigned threads, void** arguments) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    kernel_body = [=] { call(kernel, arguments, std::index_sequence_for<A...>()); };
    unsigned order = 0;
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                copies_are_late = order / 2 % 2 == 0;
                run_block(threads, order++);
            }
        }
    }
}

// 0, or 1 where there is no such kernel.
extern "C" int emulate(const char* name, const unsigned* grid, unsigned threads, void** arguments) {
#define KERNEL(kernel)                                                                                         \
    if (strcmp(name, #kernel) == 0) {                                                                          \
        launch(kernel, grid, threads, arguments);                                                              \
        return 0;                                                                                              \
    }
#ifdef HEAD_DIM
    KERNEL(decode)
    KERNEL(combine)
#if ELEMENT != 0 && HEAD_DIM % 16 == 0
    KERNEL(prefill)
#endif
#else
    KERNEL(rms_norm)
    KERNEL(add_rms_norm)
    KERNEL(rope)
    KERNEL(write_kv)
    KERNEL(rope_write_kv)
    KERNEL(silu_mul)
    KERNEL(sample)
#endif
    return 1;
}
