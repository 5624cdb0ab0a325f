"""Takes a folder of HTML pages in with LlamaIndex: its own HTML reader, its own splitter, its in-memory vector store, and MiniLM on ONNX Runtime.

    python ingest_llama_index.py --model MODEL --pages FOLDER [--precision int8|f32] [--threads N]
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode
from llama_index.readers.file import HTMLTagReader
from pydantic import PrivateAttr

import minilm

CHUNK_TOKENS = 240
OVERLAP_TOKENS = 32


class OnnxEmbedding(BaseEmbedding):
    """MiniLM as LlamaIndex wants it."""

    _encoder: minilm.Encoder = PrivateAttr()

    def __init__(self, encoder: minilm.Encoder):
        # Large: the encoder sorts what it gets by length and cuts it into batches of its own.
        super().__init__(model_name="all-MiniLM-L6-v2", embed_batch_size=2048)
        self._encoder = encoder

    def _get_text_embeddings(self, texts):
        return [vector.tolist() for vector in self._encoder.embed(texts)]

    def _get_text_embedding(self, text):
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--precision", choices=["int8", "f32"], default="int8")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        exact, model = Path(folder) / "f32.onnx", Path(folder) / "int8.onnx"
        minilm.graph(arguments.model, exact)
        if arguments.precision == "f32":
            model = exact
        else:
            minilm.quantize(exact, model)
        encoder = minilm.Encoder(arguments.model, model, arguments.threads)
    embedding = OnnxEmbedding(encoder)
    reader = HTMLTagReader(tag="body")
    splitter = SentenceSplitter(chunk_size=CHUNK_TOKENS, chunk_overlap=OVERLAP_TOKENS, tokenizer=encoder.count)
    pages = sorted(arguments.pages.rglob("*.html"))

    begun, cpu = time.perf_counter(), time.process_time()
    documents = []
    for page in pages:
        for document in reader.load_data(page):
            # What is embedded is the text alone.
            document.excluded_embed_metadata_keys = list(document.metadata)
            document.metadata = {"file_name": page.name}
            document.excluded_embed_metadata_keys.append("file_name")
            documents.append(document)
    read = time.perf_counter() - begun
    nodes = IngestionPipeline(transformations=[splitter]).run(documents=documents)
    split = time.perf_counter() - begun
    index = VectorStoreIndex(nodes, embed_model=embedding, storage_context=StorageContext.from_defaults(), insert_batch_size=len(nodes))
    seconds = time.perf_counter() - begun

    longest = max(len(encoder.count(node.get_content(MetadataMode.EMBED))) for node in nodes[:: max(1, len(nodes) // 200)])
    found = index.as_retriever(similarity_top_k=3).retrieve("How do I create an index without locking out writes?")
    print(json.dumps({
        "framework": "llama-index",
        "precision": arguments.precision,
        "threads": arguments.threads,
        "pages": len(pages),
        "chunks": len(nodes),
        "longest_chunk_tokens_of_200": longest,
        "tokens": encoder.tokens,
        "read_s": round(read, 1),
        "split_s": round(split - read, 1),
        "embed_and_store_s": round(seconds - split, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "found": [node.metadata["file_name"] for node in found],
    }, indent=1))


if __name__ == "__main__":
    main()
