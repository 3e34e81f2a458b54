/* The whole observation as one vector, for a fleet of one size (agents/networks/mlp.py). */

#define WORK_OF_NETWORK(room) 0

static void evaluate(const Inputs *in, float *scores, float *work) {
  float state[HIDDEN], next[HIDDEN];
  (void)work;
  begin(state, TRUNK_BIAS[0]);
  add_product(state, in->request, 1, REQUEST_INPUTS, TRUNK_FROM_REQUEST);
  for (int j = 0; j < in->legal; j++) {
    const float *layer = TRUNK_FROM_REPLICAS + (long)in->replica[j] * INPUTS * HIDDEN;
    add_product(state, in->input + j, in->room, INPUTS, layer);
  }
  relu(state);
  for (int layer = 1; layer < LAYERS; layer++) {
    begin(next, TRUNK_BIAS[layer]);
    add_product(next, state, 1, HIDDEN, TRUNK[layer - 1]);
    relu(next);
    memcpy(state, next, sizeof state);
  }
  for (int j = 0; j < in->legal; j++)
    scores[j] = SCORE_BIAS[in->replica[j]] + dot(state, SCORE + (long)in->replica[j] * HIDDEN);
}
