"""What PyTorch and transformers compute with the tiny models of `src/tiny.rs`: the fixture that the tests compare with.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers numpy jinja2
    /tmp/venv/bin/python golden.py ../fixtures/golden.json ../fixtures/chat.json

The weights are made from their names, by the same rule as there. It was run with torch 2.15.0 and transformers 5.24.0.
"""

import json
import math
import sys

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.chat_template_utils import render_jinja_template

VOCABULARY = 272

BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 256,
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

MODELS = {
    "llama": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500.0}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "llama-linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "head_dim": 32}),
    "mistral": ("mistral", {"sliding_window": 9}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2, "num_hidden_layers": 3},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3-yarn": (
        "qwen3",
        {
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            "max_position_embeddings": 128,
        },
    ),
}

GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def values(name, shape):
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    count = math.prod(shape)
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(GAMMA)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(FIRST)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(SECOND)
        z ^= z >> numpy.uint64(31)
    even = (z >> numpy.uint64(40)).astype(numpy.float64) / 2**23 - 1.0
    if name == "model.embed_tokens.weight":
        scale = 1.0
    elif len(shape) == 2:
        scale = math.sqrt(3.0 / shape[1])
    else:
        scale = 0.1
    middle = 1.0 if name.endswith("norm.weight") else 0.0
    return torch.from_numpy((middle + scale * even).astype(numpy.float32)).reshape(shape)


def build(family, more, dtype):
    config = AutoConfig.for_model(family, **{**BASE, **more})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values(name, tuple(parameter.shape)))
    if model.config.tie_word_embeddings:
        model.tie_weights()
    return model.to(dtype)


def prompts():
    return [
        [72, 101, 108, 108, 111],
        [(7 * at * at + 3 * at + 11) % 251 for at in range(37)],
        [(5 * at + 200) % 256 for at in range(83)],
    ]


@torch.no_grad()
def golden(name):
    family, more = MODELS[name]
    exact, half = build(family, more, torch.float32), build(family, more, torch.bfloat16)
    cases = []
    for tokens in prompts():
        ids = torch.tensor([tokens])
        logits = exact(ids, use_cache=False).logits[0]
        # Greedy by whole passes: no cache of theirs stands between.
        written = list(tokens)
        for _ in range(12):
            written.append(int(exact(torch.tensor([written]), use_cache=False).logits[0, -1].argmax()))
        cases.append(
            {
                "tokens": tokens,
                "logits": [round(float(value), 5) for value in logits[-1]],
                "bf16": [round(float(value), 4) for value in half(ids, use_cache=False).logits[0, -1].float()],
                "greedy": written[len(tokens) :],
            }
        )
    return {"family": family, "more": more, "cases": cases}


# Templates of the shapes that models have, written for this test.
TEMPLATES = {
    "chatml": "{%- if messages[0].role == 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n"
    "{%- else %}\n    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}\n{%- endif %}\n"
    "{%- set ns = namespace(last=messages|length - 1) %}\n"
    "{%- for message in messages[::-1] %}\n"
    "    {%- set index = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if message.role == 'user' and message.content is string and not message.content.startswith('<tool>') %}\n"
    "        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- for message in messages %}\n    {%- if message.role != 'system' %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    "        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}\n",
    "headers": "{{- bos_token }}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n"
    "{%- if not date_string is defined %}\n    {%- set date_string = '26 Jul 2024' %}\n{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n"
    "{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
    "{%- if tools is not none %}\n    {{- 'Environment: ipython\\n' }}\n{%- endif %}\n"
    "{{- 'Today Date: ' + date_string + '\\n\\n' }}\n{{- system_message }}\n{{- '<|eot_id|>' }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    "inst": "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n"
    "    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n"
    "\n{{- bos_token }}\n{%- for message in loop_messages %}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
    "        {{- raise_exception('roles must alternate') }}\n    {%- endif %}\n"
    "    {%- if message['role'] == 'user' %}\n"
    "        {%- if loop.first and system_message is defined %}\n"
    "            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}\n"
    "        {%- else %}\n            {{- '[INST] ' + message['content'] + '[/INST]' }}\n        {%- endif %}\n"
    "    {%- else %}\n        {{- ' ' + message['content'] + eos_token}}\n    {%- endif %}\n{%- endfor %}\n",
    "lines": "{% for message in messages %}\n{% if message.role == 'system' %}\n<<{{ message.content|tojson }}>>\n"
    "{% else %}\n{{ loop.index }}: {{ message.content.strip().replace('a', 'A').split(' ')|join('_') }}\n"
    "{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nanswer:\n{% endif %}\n",
}

CONVERSATIONS = [
    ("Answer from the sources.", "  What is the answer to all questions?  "),
    ("", "Who wrote it?\nAnd when?"),
    ('Quote "exactly" <b>&</b> é日本.', "[1] A source.\n\n[2] Another one."),
]


def chat():
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    cases = []
    for name, template in TEMPLATES.items():
        for system, user in CONVERSATIONS:
            messages = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": user})
            texts, _ = render_jinja_template(
                [messages],
                chat_template=template,
                add_generation_prompt=True,
                enable_thinking=False,
                **tokens,
            )
            cases.append(
                {"name": name, "template": template, "system": system, "user": user, "text": texts[0]}
            )
    return {"tokens": tokens, "cases": cases}


if __name__ == "__main__":
    torch.manual_seed(0)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({name: golden(name) for name in MODELS}, file, separators=(",", ":"))
        file.write("\n")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(chat(), file, ensure_ascii=False, indent=1)
        file.write("\n")
