// The places of `control`, the small float64 array on the device with what changes from step to step, and of `losses`.
// They are those of ../control.py, which a test compares with these.
#pragma once

enum Control {
    LEARNING_RATE = 0,
    BATCH_OFFSET = 1,
    STEP = 2,
    SQUARED_NORM = 3,
    GRADIENT_SCALE = 4,
    LOSS_SCALE = 5,
    CLEAN_STEPS = 6,
    SKIP = 7
};
enum Losses { BATCH = 0, TOTAL = 1 };
const double LARGEST_LOSS_SCALE = 0x1p24;
