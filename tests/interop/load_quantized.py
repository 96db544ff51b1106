#!/usr/bin/env python3
"""Loads what `moesharp quantize` wrote with transformers and compares it, in FP32, with the wide checkpoint it was made from.

Needs a machine with torch, transformers 5.17, safetensors and accelerate. A GPU is not needed: dequantize=True turns FP8 weights back when they are loaded.

    python tests/interop/load_quantized.py WIDE FP8 [--back BACK] [--tokens 32]

WIDE is the source, FP8 what `moesharp quantize WIDE --out FP8` wrote, BACK (optional) what `moesharp dequantize FP8 --out BACK` wrote.
Exit code 0 when every check below holds, 1 when one fails.

1. Every parameter of the model gets a value from FP8: nothing is missing, unexpected or of another shape.
2. Parameters that were quantized differ from WIDE by a relative error of at most 4 %, all others not at all.
3. Parameters equal those of BACK, to one rounding to BF16.
4. Logits for the same tokens are finite, and differ from WIDE's by a relative error that is printed and must be under 15 %.
"""
import argparse
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

WORST_WEIGHTS = 0.04
WORST_LOGITS = 0.15
BF16_ROUNDING = 2.0 ** -8


def load(folder, **options):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    problems = {kind: sorted(map(str, names)) for kind, names in report.items() if names and kind != "error_msgs"}
    if report.get("error_msgs"):
        problems["error_msgs"] = report["error_msgs"]
    return model.eval(), problems


def relative(actual, expected):
    norm = expected.double().norm().item()
    error = (actual.double() - expected.double()).norm().item()
    return error / norm if norm > 0 else error


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wide")
    parser.add_argument("fp8")
    parser.add_argument("--back")
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    failures = []

    def check(holds, sentence):
        if not holds:
            failures.append(sentence)
            print("FAILED:", sentence)

    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    wide, problems = load(arguments.wide)
    check(not problems, f"{arguments.wide} does not load by itself: {problems}")
    fp8, problems = load(arguments.fp8, quantization_config=FineGrainedFP8Config(dequantize=True))
    check(not problems, f"{arguments.fp8} loads with problems: {problems}")

    expected, actual = dict(wide.named_parameters()), dict(fp8.named_parameters())
    check(expected.keys() == actual.keys(), f"parameters differ in name: {sorted(expected.keys() ^ actual.keys())[:8]}")
    quantized, worst = 0, ("", 0.0)
    with torch.no_grad():
        for name in expected.keys() & actual.keys():
            check(actual[name].shape == expected[name].shape, f"{name} has shape {tuple(actual[name].shape)}, not {tuple(expected[name].shape)}")
            check(bool(torch.isfinite(actual[name]).all()), f"{name} is not finite")
            error = relative(actual[name], expected[name])
            quantized += error > 0
            worst = max(worst, (name, error), key=lambda pair: pair[1])
            check(error <= WORST_WEIGHTS, f"{name} differs by {error:.3%}")
        print(f"{quantized} of {len(expected)} parameters were quantized; worst {worst[0]} {worst[1]:.3%}")
        check(quantized > 0, "nothing was quantized")

        if arguments.back:
            back, problems = load(arguments.back)
            check(not problems, f"{arguments.back} loads with problems: {problems}")
            for name, value in back.named_parameters():
                difference = (actual[name] - value).abs()
                check(bool((difference <= value.abs() * BF16_ROUNDING).all()), f"{name} is not what moesharp dequantize gives, to a rounding")

        vocabulary = wide.config.get_text_config().vocab_size
        tokens = torch.randint(0, vocabulary, (1, arguments.tokens), generator=torch.Generator().manual_seed(1))
        logits, reference = fp8(tokens).logits, wide(tokens).logits
        error = relative(logits, reference)
        print(f"logits of {arguments.tokens} tokens differ by {error:.3%}")
        check(bool(torch.isfinite(logits).all()), "logits are not finite")
        check(error <= WORST_LOGITS, f"logits differ by {error:.3%}")

    print("failed" if failures else "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
