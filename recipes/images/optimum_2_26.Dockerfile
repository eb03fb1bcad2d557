# train=optimum_lora with Neuron 2.26: Hugging Face's container with current optimum-neuron. recipes/llama3_8b_sql_trn1.yaml
#   aws ecr get-login-password --region us-west-2 | docker login --username AWS --password-stdin 763104351884.dkr.ecr.us-west-2.amazonaws.com
#   docker build -f recipes/images/optimum_2_26.Dockerfile -t REGISTRY/trainium-recipes:optimum-2.26 .
FROM 763104351884.dkr.ecr.us-west-2.amazonaws.com/huggingface-pytorch-training-neuronx:2.8.0-transformers4.55.4-neuronx-py310-sdk2.26.0-ubuntu22.04
LABEL sdk="neuron_2_26" trains="optimum"
RUN pip install --no-cache-dir --extra-index-url https://pip.repos.neuron.amazonaws.com \
    "optimum-neuron[neuronx,training]==0.4.5" transformers==4.57.6 trl==0.24.0 peft==0.17.0 \
    tokenizers==0.22.1 huggingface-hub==0.36.0 jinja2==3.1.6 pyarrow==22.0.0
ENTRYPOINT []
