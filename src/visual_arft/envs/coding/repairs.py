"""Code that mends each problem: short enough for a small model to learn from.

>>> print(program("rotation180"))
import cv2
img = cv2.imread('path_to_input_image.jpg')
img = cv2.rotate(img, cv2.ROTATE_180)
cv2.imwrite('path_to_output_image.jpg', img)
"""

from __future__ import annotations

from visual_arft.envs.coding.tool import INPUT_FILE
from visual_arft.sandbox import OUTPUT_FILE

Box = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in thousandths of the width and height, as questions give it."""

REPAIRS = {
    "rotation90": "img = cv2.rotate(img, cv2.ROTATE_90_CLOCKWISE)",
    "rotation180": "img = cv2.rotate(img, cv2.ROTATE_180)",
    "dark": "img = cv2.convertScaleAbs(img, alpha=4)",
    "overexposure": "img = 255 - cv2.convertScaleAbs(255 - img, alpha=4)",
    "blur": "img = cv2.addWeighted(img, 3, cv2.GaussianBlur(img, (0, 0), 2), -2, 0)",
    "noise": "img = cv2.medianBlur(img, 5)",
    "crop": "x0, y0, x1, y1 = [{x_min}, {y_min}, {x_max}, {y_max}]\n"
    "h, w = img.shape[:2]\n"
    "img = img[y0 * h // 1000:y1 * h // 1000, x0 * w // 1000:x1 * w // 1000]",
}
"""What mends each problem of an OpenCV image `img`; `crop` has places for its box."""


def program(*problems: str, box: Box | None = None) -> str:
    """A whole program that mends the problems one after the other; `crop` needs the box."""
    lines = [repair(problem, box) for problem in problems if problem != "none"]
    return "\n".join(
        (
            "import cv2",
            f"img = cv2.imread('{INPUT_FILE}')",
            *lines,
            f"cv2.imwrite('{OUTPUT_FILE}', img)",
        )
    )


def repair(problem: str, box: Box | None = None) -> str:
    """The lines that mend one problem of an OpenCV image `img`; `crop` needs the box."""
    if problem != "crop":
        return REPAIRS[problem]
    if box is None:
        raise ValueError("a program that crops needs a box")
    x_min, y_min, x_max, y_max = box
    return REPAIRS["crop"].format(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
