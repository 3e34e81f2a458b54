/* Message passing over the star of a request and its replicas (agents/networks/gnn.py). */

#define WORK_OF_NETWORK(room) ((room) * HIDDEN)

static void evaluate(const Inputs *in, float *scores, float *work) {
  float request[HIDDEN], mean[HIDDEN], heard[HIDDEN], next[HIDDEN];
  begin(request, ENCODE_REQUEST_BIAS);
  add_product(request, in->request, 1, REQUEST_INPUTS, ENCODE_REQUEST);
  relu(request);
  for (int j = 0; j < in->legal; j++) {
    float *state = work + (long)j * HIDDEN;
    begin(state, ENCODE_REPLICA_BIAS);
    add_product(state, in->input + j, in->room, INPUTS, ENCODE_REPLICA);
    relu(state);
  }
  for (int round = 0; round < LAYERS; round++) {
    const int last = round == LAYERS - 1; /* nobody hears what the request hears then */
    memset(mean, 0, sizeof mean);
    begin(heard, REPLICA_FROM_REQUEST_BIAS[round]);
    add_product(heard, request, 1, HIDDEN, REPLICA_FROM_REQUEST[round]);
    for (int j = 0; j < in->legal; j++) {
      float *state = work + (long)j * HIDDEN;
      if (!last)
        for (int i = 0; i < HIDDEN; i++) mean[i] += state[i];
      memcpy(next, heard, sizeof next);
      add_product(next, state, 1, HIDDEN, REPLICA_FROM_ITSELF[round]);
      relu(next);
      memcpy(state, next, sizeof next);
    }
    if (last) break;
    for (int i = 0; i < HIDDEN; i++) mean[i] /= (float)in->legal;
    begin(next, REQUEST_FROM_REPLICAS_BIAS[round]);
    add_product(next, request, 1, HIDDEN, REQUEST_FROM_ITSELF[round]);
    add_product(next, mean, 1, HIDDEN, REQUEST_FROM_REPLICAS[round]);
    relu(next);
    memcpy(request, next, sizeof next);
  }
  for (int j = 0; j < in->legal; j++) scores[j] = SCORE_BIAS[0] + dot(work + (long)j * HIDDEN, SCORE);
}
