"""The article's recipe as a PyTorch tutorial would write it: one process, one model after another.

The yardstick for kd_ray, so it imports nothing from it. Prints one JSON line.
"""

import argparse
import json
import time

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

NUM_TEACHERS = 12
TEACHER_EPOCHS = 30
STUDENT_EPOCHS = 50
BATCH_ROWS = 64
TEMPERATURE = 3.0
ALPHA = 0.7


def load_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return standardized train_BD, test_BD and their labels."""
    features, labels = make_classification(
        n_samples=5000, n_features=20, n_informative=10, n_redundant=5, random_state=42
    )
    train, test, y_train, y_test = train_test_split(features, labels, test_size=0.2, random_state=42)
    scaler = StandardScaler().fit(train)
    train_BD, test_BD = (torch.from_numpy(scaler.transform(x).astype(np.float32)) for x in (train, test))
    return train_BD, test_BD, torch.from_numpy(y_train).long(), torch.from_numpy(y_test).long()


def make_teacher() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 256), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, 2),
    )  # fmt: skip


def make_student() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


def train_on_labels(model: nn.Module, x_BD: Tensor, y_B: Tensor, *, epochs: int, weight_decay: float) -> None:
    loader = DataLoader(TensorDataset(x_BD, y_B), batch_size=BATCH_ROWS, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=weight_decay)
    model.train()
    for _ in range(epochs):
        for rows_BD, labels_B in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows_BD), labels_B).backward()
            optimizer.step()


def distill(student: nn.Module, x_BD: Tensor, y_B: Tensor, logits_BC: Tensor, *, epochs: int) -> None:
    """Minimize alpha * T^2 * KL(ensemble_T || student_T) + (1 - alpha) * CE(label)."""
    loader = DataLoader(TensorDataset(x_BD, y_B, logits_BC), batch_size=BATCH_ROWS, shuffle=True)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, weight_decay=1e-4)
    student.train()
    for _ in range(epochs):
        for rows_BD, labels_B, ensemble_BC in loader:
            optimizer.zero_grad()
            student_BC = student(rows_BD)
            kl = nn.functional.kl_div(
                nn.functional.log_softmax(student_BC / TEMPERATURE, dim=1),
                nn.functional.softmax(ensemble_BC / TEMPERATURE, dim=1),
                reduction="batchmean",
            )
            loss = ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * nn.functional.cross_entropy(student_BC, labels_B)
            loss.backward()
            optimizer.step()


@torch.no_grad()
def predict(model: nn.Module, x_BD: Tensor) -> Tensor:
    model.eval()
    logits_BC: Tensor = model(x_BD)
    return logits_BC


def accuracy(logits_BC: Tensor, y_B: Tensor) -> float:
    return (logits_BC.argmax(dim=1) == y_B).float().mean().item()


def run(num_teachers: int, max_epochs: int) -> dict[str, object]:
    start = time.perf_counter()
    train_BD, test_BD, y_train_B, y_test_B = load_data()

    tick = time.perf_counter()
    teachers = []
    for seed in range(num_teachers):
        torch.manual_seed(seed)
        teacher = make_teacher()
        epochs = min(TEACHER_EPOCHS, max_epochs)
        train_on_labels(teacher, train_BD, y_train_B, epochs=epochs, weight_decay=0.0)
        teachers.append(teacher)
    teachers_seconds = time.perf_counter() - tick

    soft_BC = torch.stack([predict(teacher, train_BD) for teacher in teachers]).mean(dim=0)
    epochs = min(STUDENT_EPOCHS, max_epochs)

    tick = time.perf_counter()
    torch.manual_seed(0)
    student = make_student()
    distill(student, train_BD, y_train_B, soft_BC, epochs=epochs)
    student_seconds = time.perf_counter() - tick

    tick = time.perf_counter()
    torch.manual_seed(0)  # the student's start and shuffles: only the targets differ
    baseline = make_student()
    train_on_labels(baseline, train_BD, y_train_B, epochs=epochs, weight_decay=1e-4)
    baseline_seconds = time.perf_counter() - tick

    logits_KBC = torch.stack([predict(teacher, test_BD) for teacher in teachers])
    scores = {
        "ensemble": accuracy(logits_KBC.mean(dim=0), y_test_B),
        "teacher_mean": sum(accuracy(logits_BC, y_test_B) for logits_BC in logits_KBC) / num_teachers,
        "student": accuracy(predict(student, test_BD), y_test_B),
        "baseline": accuracy(predict(baseline, test_BD), y_test_B),
    }
    return {
        "teachers_seconds": round(teachers_seconds, 3),
        "student_seconds": round(student_seconds, 3),
        "baseline_seconds": round(baseline_seconds, 3),
        "total_seconds": round(time.perf_counter() - start, 3),
        "accuracy": {name: round(score, 4) for name, score in scores.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teachers", type=int, default=NUM_TEACHERS, metavar="N", help="members to train")
    parser.add_argument("--epochs", type=int, default=STUDENT_EPOCHS, metavar="N", help="most epochs a model")
    args = parser.parse_args()
    if min(args.teachers, args.epochs) < 1:
        parser.error(f"--teachers and --epochs must be 1 or more, got {args.teachers} and {args.epochs}")
    print(json.dumps(run(args.teachers, args.epochs)))


if __name__ == "__main__":
    main()
