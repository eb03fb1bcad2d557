"""Chat templates in the manner of well-known models: what their loops, conditions and functions look like.

Each asks of the renderer what the template of that family asks; the words in them are our own.
"""

from __future__ import annotations

HEADERS = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|stop|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|stop|>\\n\\n' }}
{%- endif %}
"""

DATED = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|stop|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Functions: " + (tools | tojson(indent=4)) }}
{%- endif %}
{{- "Knowledge until: December 2023\\nToday: " + date_string + "\\n\\n" + system_message + "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|stop|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- else %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|stop|>\\n\\n' }}
{%- endif %}
"""

BRACKETS = """{{ bos_token }}\
{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}\
{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}\
{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must take turns: user/assistant/user/assistant/...') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[Q] ' + (first if loop.first else '') + message['content'] + ' [/Q]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"""

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are of help.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501

LINES = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'developer' %}{{ raise_exception('No such role') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}\
{% set role = message['role'] %}{% endif %}{{ '<turn>' + role + '\\n' + message['content'] | trim + '</turn>\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{'<turn>model\\n'}}{% endif %}"""

MARKED = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {%- set text = message.content %}
            {{- text + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

JSON = """{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- if loop.index0 > 8 %}{%- break %}{%- endif %}
    {%- if message.content == '' %}{%- continue %}{%- endif %}
    {%- set ns.count = ns.count + 1 %}
    {{- message | tojson }}{{ message | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}
    {{- [message.role, ns.count, none, documents is none] | tojson(indent=2) }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""

PLAIN = """{% for message in messages %}{{ message.role + ':\\n' + message.content + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"""

THINKING = """{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}\
{{ '<|assistant|>' + message.content.split('</think>')[-1] + eos_token }}{% else %}{{ '<|user|>' + message.content }}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"""

FOLLOWING = {
    "headers": HEADERS, "dated": DATED, "brackets": BRACKETS, "chatml": CHATML, "lines": LINES, "turns": TURNS,
    "marked": MARKED, "plain": PLAIN,
}  # fmt: skip
ALL = FOLLOWING | {"json": JSON, "thinking": THINKING}
# What each writes after an answer, and the token that ends it (</s> is added where it writes none).
ENDS = {
    "headers": ("<|eot|>", "<|eot|>"), "dated": ("<|eot|>", "<|eot|>"), "brackets": ("</s>", "</s>"),
    "chatml": ("<|im_end|>\n", "<|im_end|>"), "lines": ("</s>\n", "</s>"), "turns": ("</turn>\n", "</turn>"),
    "marked": ("<|im_end|>\n", "<|im_end|>"), "plain": ("\n", "</s>"), "thinking": ("</s>", "</s>"),
}  # fmt: skip
TOKENS = ("<|start|>", "<|stop|>", "<|eot|>", "<|im_start|>", "<|im_end|>", "<turn>", "</turn>")
