// The places of `control`, the small float64 array on the device with what changes from step to step, and of `losses`.
// They are those of ../control.py, which a test compares with these.
#pragma once

enum Control {
    LEARNING_RATE = 0,
    BATCH_OFFSET = 1,
    LOSS_FACTOR = 2,
    STEP = 3,
    SQUARED_NORM = 4,
    GRADIENT_SCALE = 5,
    LOSS_SCALE = 6,
    CLEAN_STEPS = 7,
    SKIP = 8,
    SKIPPED = 9
};
enum Losses { BATCH = 0, TOTAL = 1 };
const double LARGEST_LOSS_SCALE = 0x1p24;
