# train=nxd_lora with Neuron 2.29: AWS's training container, plus what the stages need. recipes/llama3_8b_dolly_trn2.yaml
#   docker build -f recipes/images/nxd_2_29.Dockerfile -t REGISTRY/trainium-recipes:nxd-2.29 .
FROM public.ecr.aws/neuron/pytorch-training-neuronx:2.9.0-neuronx-py312-sdk2.29.0-ubuntu24.04
LABEL sdk="neuron_2_29" trains="nxd"
RUN pip install --no-cache-dir transformers==4.48.3 tokenizers==0.21.4 huggingface-hub==0.36.0 jinja2==3.1.6 \
    pyarrow==22.0.0 "numpy>=1.26,<3"
ENTRYPOINT []
