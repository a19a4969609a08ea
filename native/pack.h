// Weights as they come from a file → panels, in the words of the numbers that they meet.
#pragma once
#include "engine.h"

namespace levit {

// Some output columns of a layer: rows of weights, and of each column the bias and the scale.
struct Columns {
  int64_t count;
  const char *weight; // count rows of `values_of`
  const char *bias;   // float32, or int32 of bytes; null for none
  const float *scale; // of bytes
};

// Values of one column's weights: 9 windows of a convolution's channels, or a Linear's depth.
int64_t values_of(const levit_engine &engine, const levit_step &step);

// Appends columns to a layer; false where there is no memory.
bool pack_columns(const levit_engine &engine, const levit_step &step, Layer &layer,
                  const Columns &columns);

// Of an attention: the table; of bytes the scale of each head's scores, and the scale and the
// offset of each column of the values. Null where there is none.
struct AttentionArrays {
  const float *table, *score_scale, *value_scale, *value_offset;
};

void pack_attention(const levit_engine &engine, const levit_step &step, Layer &layer,
                    const AttentionArrays &arrays);

// Weights by position of an attention, and the share of each head that they leave; null for ones.
void pack_positions(const levit_engine &engine, const levit_step &step, Layer &layer,
                    const float *positions, const float *rest);

// What a layer norm multiplies with and adds, or a stack's rows.
void pack_norm(const levit_engine &engine, const levit_step &step, Layer &layer,
               const float *weight, const float *bias);
void pack_rows(const levit_engine &engine, const levit_step &step, Layer &layer, const float *rows);

} // namespace levit
