# All stages on a CPU: target=kubernetes for recipes with hardware=cpu, such as quickstart.
#   docker build -f recipes/images/cpu.Dockerfile -t REGISTRY/trainium-recipes:cpu .
FROM public.ecr.aws/docker/library/python:3.12-slim
LABEL sdk="cpu" trains="torch"
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install --no-cache-dir numpy==2.4.6 transformers==5.23.0 tokenizers==0.23.3 huggingface-hub==2.4.0 \
    jinja2==3.1.6 pyarrow==26.0.1 gguf==0.19.0 starlette==1.10.0 uvicorn==0.54.0
