"""What LLaMA-Factory and TRL do between a file of trajectories and their first step.

Scripts for interpreters that have them: model directory, dataset directory and number of workers
in; a line of JSON with `tokens` and `seconds` out.
"""

LLAMAFACTORY = """
    import json, sys, time
    from transformers import Seq2SeqTrainingArguments
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from llamafactory.model import load_tokenizer
    model, data, workers = sys.argv[1:]
    model_args = ModelArguments(model_name_or_path=model)
    data_args = DataArguments(
        template="qwen3", dataset="bench", dataset_dir=data, cutoff_len=131072,
        overwrite_cache=True, preprocessing_num_workers=int(workers))
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    training_args = Seq2SeqTrainingArguments(output_dir=data + "/lf", do_train=True)
    started = time.monotonic()
    dataset = get_dataset(template, model_args, data_args, training_args, "sft", **module)
    dataset = dataset["train_dataset"]
    seconds = time.monotonic() - started
    tokens = sum(len(row["input_ids"]) for row in dataset)
    print(json.dumps({"tokens": tokens, "seconds": seconds}))
"""

TRL = """
    import json, sys, time
    import datasets
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    model, data, workers = sys.argv[1:]
    roles = {"system": "system", "human": "user", "gpt": "assistant", "observation": "tool",
             "function_call": "assistant"}
    def rows():
        for row in json.load(open(data + "/bench.json")):
            messages = [{"role": roles[t["from"]], "content": t["value"]}
                        for t in row["conversations"]]
            yield {"messages": messages}
    dataset = datasets.Dataset.from_list(list(rows()))
    spent = []
    class Trainer(SFTTrainer):
        def _prepare_dataset(self, *given, **named):
            started = time.monotonic()
            done = super()._prepare_dataset(*given, **named)
            spent.append(time.monotonic() - started)
            return done
    trainer = Trainer(
        model=AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)),
        args=SFTConfig(output_dir=data + "/trl", max_length=None, use_cpu=True, bf16=False,
                       dataset_num_proc=int(workers), report_to="none"),
        train_dataset=dataset, processing_class=AutoTokenizer.from_pretrained(model))
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    print(json.dumps({"tokens": tokens, "seconds": sum(spent)}))
"""
