/* What is called from outside. It writes to its caller's memory alone: any thread may call at any time. */

#define EXPORTED __attribute__((visibility("default")))

/* Whether this processor has what the code was compiled for. */
EXPORTED int servegym_runs_here(void) {
#if defined(__AVX2__) && defined(__FMA__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 1;
#endif
}

/* The floats of memory that a decision among so many replicas works in. */
EXPORTED long servegym_work_floats(int count) {
  return (long)count * (QUANTITIES + INPUTS + 4) + WORK_OF_NETWORK((long)count);
}

#define NOT_A_NUMBER -1
#define NOT_ITS_SIZE -2

/* Scores float[count] of request float[4], replicas float[count][15] and setting float[9], ILLEGAL where a
   replica may not be chosen. Returns how many may, or why it does not decide: then nothing is written. `work`
   has servegym_work_floats(count). */
EXPORTED int servegym_scores(const float *request, const float *replicas, const float *setting, int count,
                             float *scores, float *work) {
  if (count < 1 || count > MOST_REPLICAS || (NUM_REPLICAS && count != NUM_REPLICAS)) return NOT_ITS_SIZE;
  Inputs in;
  float *evaluated = work + (long)count * (QUANTITIES + INPUTS + 3);
  in.room = count;
  in.quantity = work;
  in.input = work + (long)count * QUANTITIES;
  in.marginal = work + (long)count * (QUANTITIES + INPUTS);
  in.crowded = in.marginal + count;
  in.replica = (int *)(in.crowded + count);
  if (!read_inputs(&in, request, replicas, setting, count)) return NOT_A_NUMBER;
  for (int r = 0; r < count; r++) scores[r] = ILLEGAL;
  if (in.legal == 0) return 0;
  evaluate(&in, evaluated, evaluated + count);
  float ttft_share = in.request[REQUEST_FEATURES];
  float departure = (1.0f - ttft_share) * DEPARTURE[0] + ttft_share * DEPARTURE[1];
  for (int j = 0; j < in.legal; j++) {
    float prior = in.marginal[j] * PRIOR_WEIGHTS[0] + in.crowded[j] * PRIOR_WEIGHTS[1];
    float untrained = in.marginal[j];
    scores[in.replica[j]] = untrained + departure * (evaluated[j] + prior - untrained);
  }
  return in.legal;
}
