/* Dense layers: y = relu(b + x W) with W [inputs][HIDDEN], so that a row of W is read for each input. */

typedef float vector __attribute__((vector_size(32), aligned(4)));
#define LANES 8

#ifdef __FMA__
#include <immintrin.h>
#define MULTIPLY_ADD(a, b, c) ((vector)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* y[HIDDEN] += x[i * stride] W[i] over `inputs`. WIDTH columns at a time stay in registers. */
static inline void add_product(float *restrict y, const float *restrict x, int stride, int inputs,
                               const float *restrict W) {
  for (int from = 0; from < HIDDEN; from += WIDTH) {
    vector sum[WIDTH / LANES];
#pragma GCC unroll 8
    for (int v = 0; v < WIDTH / LANES; v++) sum[v] = *(const vector *)(y + from + v * LANES);
    for (int i = 0; i < inputs; i++) {
      const float *row = W + (long)i * HIDDEN + from;
      float value = x[(long)i * stride];
      vector all = {value, value, value, value, value, value, value, value};
#pragma GCC unroll 8
      for (int v = 0; v < WIDTH / LANES; v++)
        sum[v] = MULTIPLY_ADD(all, *(const vector *)(row + v * LANES), sum[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < WIDTH / LANES; v++) *(vector *)(y + from + v * LANES) = sum[v];
  }
}

static inline void begin(float *restrict y, const float *restrict bias) {
  memcpy(y, bias, HIDDEN * sizeof(float));
}

static inline void relu(float *restrict y) {
  for (int i = 0; i < HIDDEN; i++) y[i] = y[i] > 0.0f ? y[i] : 0.0f;
}

static inline float dot(const float *restrict x, const float *restrict w) {
  vector sum = {0};
  for (int i = 0; i < HIDDEN; i += LANES)
    sum = MULTIPLY_ADD(*(const vector *)(x + i), *(const vector *)(w + i), sum);
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}
