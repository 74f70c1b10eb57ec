from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.named_methods import folders_called
from tests.pipeline.evaluation.test_comparison import add_method, wrong


def test_every_name_that_people_read_of_a_method_finds_it(tmp_path):
    add_method(tmp_path, wrong(0, 60), name="svm")
    add_method(tmp_path, wrong(0, 50), method="head", name="rbf-288px")
    add_method(tmp_path, wrong(0, 50), method="joined", name="svm")
    add_method(tmp_path, wrong(0, 40), method="finetune", name="SVM")  # by somebody's `name`
    by_name = {result.directory.name: result.directory for result in compare_runs([tmp_path]).results}
    folders = list(by_name.values())
    svm, rbf, joined = (by_name[name] for name in ("linear-svm", "head-rbf-288px", "joined-svm"))
    for name in ("linear-svm", "SVM", "Svm"):
        assert svm in folders_called(folders, name)
    assert folders_called(folders, "SVM") == [svm]
    assert folders_called(folders, "svm") == [svm, joined]  # both heads have that name: the label of one is more
    assert folders_called(folders, "SVM + columns") == [joined]
    assert folders_called(folders, "rbf svm (288px)") == [rbf]
    assert folders_called(folders, "rbf-288px") == [rbf]
    assert folders_called(folders, "linear") == []
