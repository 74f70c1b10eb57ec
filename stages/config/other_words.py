"""Words that other tools, and the field, have for our options: who types one is told what it is called here."""

from __future__ import annotations

from collections.abc import Collection

from cache.errors import nearest

_LEARNING_RATES = ("lr", "head_lr", "fit_lr", "baseline_lr")
_BATCH_SIZES = ("extract_batch_size", "fit_batch_size", "finetune_batch_size")
_EPOCHS = ("epochs", "fit_epochs")
_DROPOUTS = ("fit_dropout", "finetune_dropout")
_PRECISIONS = ("precision", "amp_dtype")
_SMOOTHINGS = ("label_smoothing", "fit_label_smoothing")
_WORKERS = ("num_workers", "decode_threads")

OTHER_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "arch", "architecture", "network", "encoder", "model_name", "base_model"), ("backbone",)),
    **dict.fromkeys(("layer", "layers", "feature_layer", "node", "return_nodes", "features"), ("cut",)),
    **dict.fromkeys(("pooling", "global_pool", "pool_type"), ("pool",)),
    **dict.fromkeys(("img_size", "input_size", "size", "resolution", "imgsz", "image_resolution"), ("image_size",)),
    **dict.fromkeys(("crop", "center_crop", "crop_pct", "resize_mode", "squish", "letterbox"), ("crop_mode",)),
    **dict.fromkeys(("pretrained", "checkpoint", "state_dict", "weights_file", "ckpt"), ("weights",)),
    **dict.fromkeys(("dataset", "data_dir", "data_path", "input", "train_dir", "root"), ("data",)),
    **dict.fromkeys(("output", "output_dir", "run_dir", "save_dir", "results", "o"), ("out",)),
    **dict.fromkeys(("test_split", "test_fraction", "test_share"), ("test_size",)),
    **dict.fromkeys(("val_split", "valid_size", "validation_split", "validation_size", "dev_size"), ("val_size",)),
    **dict.fromkeys(("group", "groups", "subject", "patient", "group_kfold"), ("group_by", "group_column")),
    **dict.fromkeys(("seed", "random_state", "random_seed", "repeats"), ("seeds",)),
    **dict.fromkeys(("classifier", "clf", "probe", "estimator", "heads"), ("head",)),
    **dict.fromkeys(("lr", "learning_rate", "base_lr", "lr0"), _LEARNING_RATES),
    **dict.fromkeys(("batch_size", "batch", "bs"), _BATCH_SIZES),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs"), _EPOCHS),
    **dict.fromkeys(("dropout", "drop", "drop_rate"), _DROPOUTS),
    **dict.fromkeys(("patience", "early_stopping", "early_stopping_patience"), ("fit_patience", "plateau_patience")),
    **dict.fromkeys(("weight_decay", "wd"), ("weight_decay", "fit_weight_decay")),
    **dict.fromkeys(("label_smoothing", "smoothing"), _SMOOTHINGS),
    **dict.fromkeys(("optimizer", "optim"), ("opt",)),
    **dict.fromkeys(("scheduler", "sched", "lr_scheduler", "lr_schedule"), ("schedule",)),
    **dict.fromkeys(("warmup_epochs", "warmup_ratio", "warmup_steps"), ("warmup",)),
    **dict.fromkeys(("find_lr", "lr_finder", "auto_lr_find"), ("lr_find",)),
    **dict.fromkeys(("freeze", "trainable_layers", "unfrozen"), ("unfreeze",)),
    **dict.fromkeys(("aug", "augmentation", "augmentations", "transforms", "auto_augment"), ("augment",)),
    **dict.fromkeys(("aa", "ra", "trivial_augment"), ("augment",)),
    **dict.fromkeys(("fp16", "bf16", "amp", "half", "mixed_precision"), _PRECISIONS),
    **dict.fromkeys(("threads", "n_jobs", "num_threads"), _WORKERS),
    **dict.fromkeys(("gpu", "gpus", "cuda", "accelerator"), ("device",)),
    **dict.fromkeys(("grad_accum", "gradient_accumulation_steps", "accumulate_grad_batches"), ("grad_accum_steps",)),
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val", "clip_grad_norm"), ("clip_grad",)),
    **dict.fromkeys(("ema", "ema_decay", "model_ema"), ("model_ema_decay",)),
    **dict.fromkeys(("kfold", "k_fold", "n_splits", "cross_validation"), ("cv",)),
    **dict.fromkeys(("c", "cs", "reg", "regularization", "l2"), ("c_values",)),
    **dict.fromkeys(("k", "neighbors", "n_neighbours"), ("n_neighbors",)),
    **dict.fromkeys(("balanced", "class_weight", "imbalance"), ("class_weights", "sampling")),
    **dict.fromkeys(("numeric", "numerical", "continuous", "tabular", "covariates", "num_cols"), ("columns",)),
    **dict.fromkeys(("categorical", "category", "cat_cols", "cat_features"), ("categories",)),
    **dict.fromkeys(("text", "text_columns", "text_features"), ("texts",)),
    **dict.fromkeys(("imputer", "fillna", "missing"), ("impute",)),
    **dict.fromkeys(("min_frequency", "rare", "rare_threshold"), ("category_min_count",)),
    **dict.fromkeys(("metrics", "scoring", "score", "monitor", "eval_metric", "optimize_metric"), ("metric",)),
    **dict.fromkeys(
        ("nested", "nested_cv", "outer_folds", "leave_one_group_out", "logo", "test_group", "holdout"), ("test",)
    ),
    **dict.fromkeys(("cache_dir", "cache_path"), ("cache",)),
    **dict.fromkeys(("run_name", "experiment", "tag"), ("name",)),
    **dict.fromkeys(("force", "replace", "overwrite_existing"), ("overwrite",)),
}
"""What somebody may type -> the options here that mean it; told are those that the command has."""


def near_options(name: str, known: Collection[str]) -> list[str]:
    """Return the options that a name which none has may mean: of that meaning, else near to it in spelling.

    Parameters
    ----------
    name : str
        As it was typed, hyphens and all.
    known : collection of str
        The options that there are.
    """
    word = name.lower().lstrip("-").replace("-", "_")
    return [option for option in OTHER_WORDS.get(word, ()) if option in known] or nearest(word, known)
