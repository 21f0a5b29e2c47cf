"""Writes golden_t5.npz: what transformers makes of two small T5 encoders.

Not run by the tests; it needs torch and transformers (the file was made with transformers 5.23.0).
    PYTHONPATH=. python tests/text/make_golden_t5.py

Content: `tokens` int32 [2, 160] (0 pads; 160 and 9 are real, so that distances go past the last
bucket), and for `v1_0` and `v1_1`: `<version>/<T5X name of the weight>` as `random_params` of
t5_cases.py made it, `<version>/encoded` float32 [2, 160, 16], the encoder's output.
"""

import numpy as np
import torch
import transformers
from t5_cases import GOLDEN, VERSIONS, hugging_face_config, hugging_face_tensors, random_params


def main() -> None:
  tokens = np.random.default_rng(7).integers(2, 32, (2, 160)).astype(np.int32)
  tokens[0, -1] = tokens[1, 8] = 1
  tokens[1, 9:] = 0
  arrays = {"tokens": tokens}
  for seed, (version, config) in enumerate(VERSIONS.items()):
    params = random_params(config, seed=seed)
    arrays |= {f"{version}/{name}": value for name, value in params.items()}
    settings = transformers.T5Config(**hugging_face_config(config), dropout_rate=0.0)
    model = transformers.T5EncoderModel(settings).eval()
    weights = {
      name: torch.tensor(value) for name, value in hugging_face_tensors(config, params).items()
    }
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    model.load_state_dict(weights)
    ids = torch.tensor(tokens).long()
    with torch.no_grad():
      output = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    arrays[f"{version}/encoded"] = output.numpy()
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
  main()
