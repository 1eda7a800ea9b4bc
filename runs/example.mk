# A batch run: make train RUN=runs/example.mk
POOLS   = pool/part-*.parquet
QUERIES = queries/wordnet-small.txt
OUT     = runs/example

HARVEST_OPTIONS = --cap 20000 --engine 'local(workers=16)' --downloader 'img2dataset(image_size=256, threads=64)'
DEDUP_OPTIONS   = --signal exact --signal phash
FILTER_OPTIONS  = --signal caption --signal language --signal size --where "language = 'en'" --where "caption_words > 2"
TRAIN_OPTIONS   = --model ViT-B-32 --batch-size 1024 --epochs 32
