"""Options in messages are written as at the command line."""

from pipeline.options.flags_in_text import as_flags


def test_options_of_single_commands_are_written_as_flags_and_other_words_stay():
    said = as_flags("say `seen` leave-out, `unknown` leave-out or `feature_map` pca; `car` is a class")
    assert said == "say --seen leave-out, --unknown leave-out or --feature-map pca; `car` is a class"
