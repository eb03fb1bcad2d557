# serve=vllm with Neuron 2.29: AWS's vLLM container, unchanged. recipes/llama3_8b_dolly_trn2.yaml
#   docker build -f recipes/images/vllm_2_29.Dockerfile -t REGISTRY/trainium-recipes:vllm-2.29 .
FROM public.ecr.aws/neuron/pytorch-inference-vllm-neuronx:0.16.0-neuronx-py312-sdk2.29.1-ubuntu24.04
LABEL sdk="neuron_2_29" serves="vllm"
ENTRYPOINT []
