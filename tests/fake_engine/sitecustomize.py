"""On PYTHONPATH of the whole-graph test: in the process of ``tasks.generate.stage`` the engine
answers by rule. Nothing else is touched, but for how often a stage looks for garbage: a sixth of
the time that it takes to import its libraries.
"""

import gc
import os
import sys
import time

gc.set_threshold(10_000, 20, 20)

if "tasks.generate" in sys.orig_argv:
    import tasks.lm.engine
    from tasks.lm.tokenizers import load_tokenizer

    class RuleEngine:
        """Asks for the third to fifth word of the passage it finds in the prompt; every fifth
        passage gets an answer that cannot be parsed.
        """

        def __init__(self, kind, model, *_, **__):
            self.tokenizer = load_tokenizer(str(model))

        def generate(self, prompts, sampling, seeds, on_done=None):
            time.sleep(float(os.environ.get("SECONDS_A_CALL", "0")))
            return [self._complete(self.tokenizer.decode(prompt)) for prompt in prompts]

        def _complete(self, prompt):
            words = prompt.partition("<|context|>\n")[2].partition("\n<|task|>")[0].split()
            text = (
                f"{{{{context}}}}\n\nQuestion: What stands behind the opening of this "
                f"passage?\n<|pipe|>\n{' '.join(words[2:5])}"
            )
            return tasks.lm.engine.Completion(
                "no mark" if len(words) % 5 == 0 else text, len(words), True
            )

    tasks.lm.engine.open_engine = RuleEngine
