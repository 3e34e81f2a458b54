/* What a router network works on: forecasts and normalised inputs of every replica that may be chosen.

   The specification is agents/networks/forecasts.py and normalise.py. Sums and quotients are those of
   float32 in the order written there, never fused: what follows takes differences of large numbers. A
   replica that may not be chosen is left out here, and nothing after this sees it. */

#include <stdint.h>
#include <string.h>

#define ILLEGAL -1e9f
#define QUANTITIES (REPLICA_FEATURES + 1 + FORECASTS) /* its columns, the share of its memory, forecasts */
#define INPUTS (2 * QUANTITIES)
#define REQUEST_INPUTS (REQUEST_FEATURES + 1)

enum { TTFT = REPLICA_FEATURES + 1, OWN_LATENCY, DELAY_OF_OTHERS, MARGINAL_LATENCY, CROWDED_LATENCY };

static inline float most(float a, float b) { return a > b ? a : b; }
static inline float least(float a, float b) { return a < b ? a : b; }

/* log(1 + x) of a finite x >= 0, to 3e-7 of it: of 1 + x = 2^e (1 + f), 2 atanh(f / (2 + f)). */
static inline float log_1p(float x) {
  float u = 1.0f + x;
  int32_t bits, scale_bits;
  memcpy(&bits, &u, 4);
  int32_t e = (bits - 0x3f3504f3) >> 23; /* so that 1 + f lies between sqrt(1/2) and sqrt(2) */
  bits -= e << 23;
  scale_bits = 0x3f800000 - (e << 23);
  float m, scale;
  memcpy(&m, &bits, 4);
  memcpy(&scale, &scale_bits, 4);
  float f = (m - 1.0f) + (x - (u - 1.0f)) * scale; /* with what 1 + x has lost */
  float s = f / (2.0f + f), z = s * s;
  float series = z * (0.333333333f + z * (0.2f + z * (0.142857143f + z * 0.111111111f)));
  return (float)e * 0.693147181f + 2.0f * (s + s * series);
}

static inline int is_finite(float x) {
  int32_t bits;
  memcpy(&bits, &x, 4);
  return (bits & 0x7f800000) != 0x7f800000;
}

/* The numbers of a decision, in the caller's memory; [room] arrays have a column for each legal replica. */
typedef struct {
  int room, legal;                /* how many replicas fit, how many may be chosen */
  float request[REQUEST_INPUTS];  /* the last: how much of the objective is TTFT */
  float *quantity;                /* [QUANTITIES][room] raw columns, then in units */
  float *input;                   /* [INPUTS][room] */
  float *marginal, *crowded;      /* [room] priors, with marginal and with crowded latency */
  int *replica;                   /* [room] whose column it is */
} Inputs;

static void read_request(Inputs *in, const float *request, const float *setting) {
  for (int i = 0; i < REQUEST_FEATURES; i++) {
    float amount = request[i] / REQUEST_UNITS[i];
    in->request[i] = amount < 0.0f ? -log_1p(-amount) : log_1p(amount);
  }
  float both = setting[TTFT_WEIGHT] + setting[LATENCY_WEIGHT];
  in->request[REQUEST_FEATURES] = setting[TTFT_WEIGHT] / most(both, 1e-6f);
}

static void forecast(Inputs *in, const float *request, const float *setting) {
  const int room = in->room, legal = in->legal;
  float *q = in->quantity;
#define COLUMN(i) (q + (i) * room)
  float predicted = request[PREDICTED_OUTPUT_TOKENS], prompt = request[PROMPT_TOKENS];
  float output = most(predicted > 0.0f ? predicted : setting[MEAN_OUTPUT_TOKENS], 1.0f);
  float context = prompt + 0.5f * output;
  float longer_s = setting[S_PER_DECODE] + setting[S_PER_CONTEXT_TOKEN] * context;
  for (int j = 0; j < legal; j++) {
    float speed = most(COLUMN(SPEED)[j], 1e-3f);
    float running = COLUMN(RUNNING)[j] + COLUMN(UNSEEN_REQUESTS)[j];
    float added = prompt - COLUMN(PREFIX_HIT_TOKENS)[j];
    float tokens = (COLUMN(QUEUED_PREFILL_TOKENS)[j] + COLUMN(UNSEEN_PREFILL_TOKENS)[j]) + added;
    float decode_s = setting[OVERHEAD_S] + setting[S_PER_DECODE] * running;
    decode_s = decode_s + setting[S_PER_CONTEXT_TOKEN] * COLUMN(DECODE_CONTEXT_TOKENS)[j];
    float iterations = __builtin_ceilf(tokens / most(setting[TOKEN_BUDGET] - running, 1.0f));
    float free_tokens = (COLUMN(KV_TOTAL_BLOCKS)[j] - COLUMN(KV_USED_BLOCKS)[j]) * setting[BLOCK_SIZE];
    float until_free = most(tokens - free_tokens, 0.0f) / most(COLUMN(KV_RELEASED_PER_ITERATION)[j], 1e-3f);
    float work_s = (iterations + until_free) * decode_s + setting[S_PER_PREFILL_TOKEN] * tokens;
    float ttft_s = COLUMN(ITERATION_LEFT_S)[j] + work_s / speed;
    ttft_s = least(most(ttft_s, 0.0f), LONGEST_S);
    float own_s = ttft_s + ((output - 1.0f) * (decode_s + longer_s)) / speed;
    float waits_s = (setting[S_PER_PREFILL_TOKEN] * added) * (running + COLUMN(WAITING)[j]);
    float delay_s = (waits_s + ((output - 1.0f) * longer_s) * running) / speed;
    float beside_s = setting[S_PER_DECODE] * COLUMN(WAITING)[j];
    beside_s = beside_s + setting[S_PER_CONTEXT_TOKEN] * COLUMN(QUEUED_PREFILL_TOKENS)[j];
    COLUMN(REPLICA_FEATURES)[j] = COLUMN(KV_USED_BLOCKS)[j] / most(COLUMN(KV_TOTAL_BLOCKS)[j], 1.0f);
    COLUMN(TTFT)[j] = ttft_s;
    COLUMN(OWN_LATENCY)[j] = own_s;
    COLUMN(DELAY_OF_OTHERS)[j] = delay_s;
    COLUMN(MARGINAL_LATENCY)[j] = own_s + delay_s;
    COLUMN(CROWDED_LATENCY)[j] = own_s + ((output - 1.0f) * beside_s + waits_s) / speed;
  }
#undef COLUMN
}

static void normalise(Inputs *in) {
  const int room = in->room, legal = in->legal;
  float ttft_share = in->request[REQUEST_FEATURES], latency_share = 1.0f - ttft_share;
  for (int i = 0; i < QUANTITIES; i++) {
    float *restrict q = in->quantity + i * room;
    float *restrict own = in->input + i * room, *restrict beside = own + QUANTITIES * room;
    float unit = QUANTITY_UNITS[i], smallest = q[0] / unit;
    for (int j = 0; j < legal; j++) q[j] = q[j] / unit;
    for (int j = 0; j < legal; j++) smallest = least(smallest, q[j]);
    for (int j = 0; j < legal; j++) {
      float relative = q[j] - smallest;
      own[j] = log_1p(most(q[j], 0.0f)); /* clocks jitter below zero */
      beside[j] = log_1p(relative);
      q[j] = relative;
    }
  }
  const float *ttft = in->quantity + TTFT * room;
  const float *marginal = in->quantity + MARGINAL_LATENCY * room;
  const float *crowded = in->quantity + CROWDED_LATENCY * room;
  for (int j = 0; j < legal; j++) {
    float by_ttft = ttft_share * (ttft[j] * TTFT_PRIOR);
    in->marginal[j] = -least(by_ttft + latency_share * (marginal[j] * LATENCY_PRIOR), WORST);
    in->crowded[j] = -least(by_ttft + latency_share * (crowded[j] * LATENCY_PRIOR), WORST);
  }
}

/* Reads a decision; 0 where a number that matters is none, and nothing is to be believed. */
static int read_inputs(Inputs *in, const float *request, const float *replicas, const float *setting,
                       int count) {
  int finite = 1;
  for (int i = 0; i < REQUEST_FEATURES; i++) finite &= is_finite(request[i]);
  for (int i = 0; i < SETTING_FEATURES; i++) finite &= is_finite(setting[i]);
  in->legal = 0;
  for (int r = 0; r < count; r++) {
    const float *row = replicas + r * REPLICA_FEATURES;
    if (!(row[AVAILABLE] > 0.5f)) continue;
    for (int i = 0; i < REPLICA_FEATURES; i++) {
      finite &= is_finite(row[i]);
      in->quantity[i * in->room + in->legal] = row[i];
    }
    in->replica[in->legal++] = r;
  }
  if (!finite || in->legal == 0) return finite;
  read_request(in, request, setting);
  forecast(in, request, setting);
  normalise(in);
  return 1;
}
